//! Programs from the Python package registry, each in an environment of its own in the cache, with every package at one exact version. The
//! lists of versions are in xtask/python. It never touches the machine's own Python packages.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use fs_err as fs;
use sha2::{Digest as _, Sha256};

use crate::{cache, packages, printer, process};

/// What pip says when nobody answers, in its words and those of what it is made from (urllib3, the C library).
const OUT_OF_REACH: &[&str] = &[
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "NewConnectionError",
    "NameResolutionError",
    "ProxyError",
];
/// How long one attempt of pip's to connect may take, in seconds.
const TIMEOUT_S: &str = "15";
/// How often pip tries again.
const RETRIES: &str = "2";
/// The file that says that an environment is whole; it is written last.
const WHOLE: &str = "whole";

/// A program and all that it needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// The name of its environment.
    name: &'static str,
    /// `package==version` per line, as `pip freeze` writes them.
    requirements: &'static str,
}

/// Sends what the description of an API allows, and what it forbids, and holds the answers against it.
pub(crate) const SCHEMATHESIS: Tool = Tool {
    name: "schemathesis",
    requirements: include_str!("../python/schemathesis.txt"),
};

/// Makes a client out of the description of an API.
pub(crate) const OPENAPI_PYTHON_CLIENT: Tool = Tool {
    name: "openapi-python-client",
    requirements: include_str!("../python/openapi-python-client.txt"),
};

/// Returns the folder with the programs of `tool`, installed if they were not yet; `None` if the registry is out of reach, which was said.
///
/// # Errors
/// When Python is missing, or what came could not be installed.
pub(crate) fn programs(tool: Tool) -> Result<Option<PathBuf>> {
    packages::ensure(packages::PYTHON)?;
    let python = process::captured(Command::new("python3").arg("--version"))?;
    let root = cache::directory("python")?;
    // An environment works where it was made only, so it is made at its name, and the lock keeps others out meanwhile.
    let directory = root.join(format!("{}-{}", tool.name, key(tool, &python)));
    fs::create_dir_all(&directory)?;
    let _lock = cache::lock(&directory, "python")?;
    let environment = directory.join("env");
    let programs = environment.join("bin");
    if directory.join(WHOLE).exists() {
        return Ok(Some(programs));
    }
    printer::progress("python", &format!("installing {}", tool.name));
    if environment.exists() {
        fs::remove_dir_all(&environment)?;
    }
    let requirements = directory.join("requirements.txt");
    fs::write(&requirements, tool.requirements)?;
    let log = directory.join("log");
    // What an attempt before said would be taken for this one's.
    fs::write(&log, "")?;
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&environment);
    process::logged(&mut venv, &log, |_| ())?;
    let mut pip = Command::new(programs.join("pip"));
    pip.args(["install", "--disable-pip-version-check", "--no-input"])
        .args(["--timeout", TIMEOUT_S, "--retries", RETRIES])
        // What the list leaves out must be a mistake in the list.
        .args(["--no-deps", "--only-binary", ":all:", "--requirement"])
        .arg(&requirements);
    if let Err(error) = process::logged(&mut pip, &log, |_| ()) {
        if is_out_of_reach(&fs::read_to_string(&log)?) {
            printer::progress("python", "the package registry is out of reach");
            return Ok(None);
        }
        return Err(error);
    }
    fs::write(directory.join(WHOLE), "")?;
    Ok(Some(programs))
}

/// What makes an environment another one: the versions in it, the Python that it is for, and where the cache is.
fn key(tool: Tool, python: &str) -> String {
    let digest = Sha256::digest(format!("{python}\n{}", tool.requirements));
    hex::encode(digest.get(..8).unwrap_or(&digest))
}

fn is_out_of_reach(log: &str) -> bool {
    OUT_OF_REACH.iter().any(|said| log.contains(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_exact() {
        for tool in [SCHEMATHESIS, OPENAPI_PYTHON_CLIENT] {
            let lines: Vec<&str> = tool.requirements.lines().collect();
            let own = format!("{}==", tool.name);
            assert!(lines.iter().any(|line| line.starts_with(&own)), "{own}");
            for line in lines {
                let (name, version) = line.split_once("==").unwrap();
                assert!(!name.is_empty() && !version.contains(['*', '<', '>', '=']));
            }
        }
    }

    #[test]
    fn another_python_is_another_environment() {
        let key = |python| key(SCHEMATHESIS, python);
        assert_eq!(key("Python 3.11.2"), key("Python 3.11.2"));
        assert_ne!(key("Python 3.11.2"), key("Python 3.13.1"));
        assert_eq!(key("").len(), 16);
    }

    #[test]
    fn a_missing_network_is_told_from_a_missing_version() {
        let nobody = "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError('<pip._vendor.urllib3>: \
             Failed to establish a new connection: [Errno 101] Network is unreachable')'";
        assert!(is_out_of_reach(nobody));
        assert!(!is_out_of_reach(
            "ERROR: No matching distribution found for schemathesis==99"
        ));
    }
}
