//! A client that a stock generator makes from docs/openapi.json, and a script that uses it. What the generator leaves out is known here: a
//! description that it understands less of fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{printer, python, workspace};

/// What uses the client.
const SCRIPT: &str = include_str!("../python/vm.py");
/// The package's name, as the script imports it.
const PACKAGE: &str = "volant";
/// Operations that the generator leaves out: it knows neither tar archives as bodies nor anything to do about them.
const LEFT_OUT: &[&str] = &["PUT /api/v1/vms/{name}/files"];

/// What the script is told.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// Where the client's package is put.
    pub(crate) folder: &'a Path,
    /// The API's address and port.
    pub(crate) address: &'a str,
    pub(crate) token: &'a str,
    /// The plugin of the VM that it makes.
    pub(crate) plugin: &'a str,
}

/// The generator's programs; `None` if the package registry is out of reach, which was said.
pub(crate) fn programs() -> Result<Option<PathBuf>> {
    python::programs(python::OPENAPI_PYTHON_CLIENT)
}

/// Generates a client, and runs the script with it. `inside` is how a program is run where the API is.
///
/// # Errors
/// When the generator leaves out more than is known, or the script fails: what it said has been printed.
pub(crate) fn run(
    programs: &Path,
    task: &Task<'_>,
    inside: impl FnOnce(&Path) -> Command,
) -> Result<()> {
    let left_out = generate(programs, &task.folder.join(PACKAGE))?;
    ensure!(
        left_out == LEFT_OUT,
        "The generator leaves out {left_out:?}, and {LEFT_OUT:?} are known"
    );
    let script = task.folder.join("vm.py");
    fs_err::write(&script, SCRIPT)?;
    let mut python = inside(&programs.join("python3"));
    python
        .arg(&script)
        .arg(task.folder)
        .arg(format!("http://{}", task.address))
        .args([task.plugin, "generated"])
        .env("VOLANT_TOKEN", task.token);
    let said = said(&mut python)?;
    printer::result(&format!(
        "generated client: {}; left out: {}",
        said.trim(),
        LEFT_OUT.join(", ")
    ));
    Ok(())
}

/// Makes the package; answers which operations are not in it.
fn generate(programs: &Path, package: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(programs.join("openapi-python-client"));
    command
        .arg("generate")
        .arg("--path")
        .arg(workspace::root().join("docs/openapi.json"))
        .arg("--output-path")
        .arg(package)
        .args(["--meta", "none", "--overwrite"]);
    // It formats what it made with a program that is installed beside it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(programs.to_path_buf()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?);
    Ok(left_out(&said(&mut command)?))
}

/// What a program said, which must have succeeded.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} did not start", command.get_program().display()))?;
    let both = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&both).into_owned();
    if !output.status.success() {
        printer::quote(&said);
        bail!(
            "{} ended with {}",
            command.get_program().display(),
            output.status
        );
    }
    Ok(said)
}

/// The operations in lines such as `WARNING parsing PUT /files within vms. Endpoint will not be generated.`
fn left_out(said: &str) -> Vec<String> {
    let operations = said.lines().filter_map(|line| {
        let (operation, rest) = line.split_once(" parsing ")?.1.split_once(" within ")?;
        rest.contains("will not be generated")
            .then(|| operation.trim().to_owned())
    });
    operations.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_from_what_is_cut() {
        let said = "Generating\n\nWARNING parsing GET /api/v1/x within vms.\n\nCannot parse response for status code 200\n\n\
             WARNING parsing PUT /api/v1/{name}/y within vms. Endpoint will not be generated.\n\nUnsupported content type\n";
        assert_eq!(left_out(said), ["PUT /api/v1/{name}/y"]);
        assert_eq!(left_out(""), Vec::<String>::new());
    }

    #[test]
    fn a_program_that_fails_is_an_error() {
        let mut fails = Command::new("sh");
        let error = said(fails.args(["-c", "echo no; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }
}
