//! Looks at the host for `setup`, and does its steps one by one.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CONFIG_FILE, DIRECTORIES, Facts, GROUP, SetupError, Step};

/// Exists while systemd is PID 1 (`sd_booted(3)`).
const SYSTEMD_MARK: &str = "/run/systemd/system";

/// The mode of files that setup writes: everybody may read them, there is no secret in them.
const FILE_MODE: u32 = 0o644;

/// The longest part of a program's complaint that is shown, in characters.
const MAX_COMPLAINT_CHARS: usize = 500;

/// A step that did not work.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The file system.
    #[error("The file system refused")]
    Io(#[source] io::Error),
    /// The program could not be run.
    #[error("`{program}` cannot be run")]
    Spawn {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program ran and failed.
    #[error("`{program}` ended with {status}: {complaint}")]
    Exit {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        complaint: String,
    },
}

/// Looks at this host.
///
/// # Errors
/// [`SetupError::Locate`] if the program does not know where it is.
pub fn look(service_file: &str) -> Result<Facts, SetupError> {
    let program = std::env::current_exe().map_err(SetupError::Locate)?;
    let directory = program.parent().unwrap_or(Path::new("/")).to_path_buf();
    Ok(Facts {
        is_root: nix::unistd::geteuid().is_root(),
        has_group: matches!(nix::unistd::Group::from_name(GROUP), Ok(Some(_))),
        has_systemd: Path::new(SYSTEMD_MARK).is_dir(),
        has_daemon: directory.join("volantd").is_file(),
        directory,
        existing: DIRECTORIES
            .iter()
            .map(|(path, _)| PathBuf::from(path))
            .filter(|path| path.is_dir())
            .collect(),
        unit: fs_err::read_to_string(service_file).ok(),
        config: fs_err::read_to_string(CONFIG_FILE).ok(),
    })
}

/// Does one step.
///
/// # Errors
/// [`SetupError::Step`] with the step and its cause.
pub fn apply(step: &Step) -> Result<(), SetupError> {
    let result = match step {
        Step::Directory { path, mode } => make_directory(path, *mode).map_err(StepError::Io),
        Step::File { path, content } => write_file(path, content).map_err(StepError::Io),
        Step::Run { words } => run(words),
    };
    result.map_err(|source| SetupError::Step {
        step: step.to_string(),
        source,
    })
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs_err::create_dir_all(path)?;
    fs_err::set_permissions(path, Permissions::from_mode(mode))
}

/// Writes beside the file and renames, so that nobody reads half of it.
fn write_file(path: &Path, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".volar-new");
    let beside = PathBuf::from(name);
    fs_err::write(&beside, content)?;
    fs_err::set_permissions(&beside, Permissions::from_mode(FILE_MODE))?;
    fs_err::rename(&beside, path)
}

fn run(words: &[String]) -> Result<(), StepError> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| StepError::Spawn {
            program: program.clone(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(StepError::Exit {
        program: program.clone(),
        status: output.status.to_string(),
        complaint: complaint.trim().chars().take(MAX_COMPLAINT_CHARS).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        apply(&Step::Directory {
            path: path.clone(),
            mode: 0o711,
        })
        .unwrap();
        let mode = fs_err::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o711);

        let file = path.join("x.service");
        for content in ["one", "two"] {
            let step = Step::File {
                path: file.clone(),
                content: content.to_owned(),
            };
            apply(&step).unwrap();
            assert_eq!(fs_err::read_to_string(&file).unwrap(), content);
        }
        assert_eq!(fs_err::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn programs_that_fail_say_why() {
        let step = |words: &[&str]| Step::Run {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        apply(&step(&["true"])).unwrap();
        let error = apply(&step(&["sh", "-c", "echo no luck >&2; exit 3"])).unwrap_err();
        let chain = common::error_chain::Chain(&error).to_string();
        assert!(chain.contains("no luck") && chain.contains('3'), "{chain}");
        let error = apply(&step(&["/nonexistent/program"])).unwrap_err();
        assert!(matches!(
            error,
            SetupError::Step {
                source: StepError::Spawn { .. },
                ..
            }
        ));
    }
}
