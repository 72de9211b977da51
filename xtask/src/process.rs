//! Running other programs: quietly, with what they say kept in a log whose end is shown when they fail. Not for programs
//! whose output is the point (see [`captured`] for those).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::printer;

/// How much of a log is shown when a program has failed: enough for one compiler error with its context.
const TAIL_LINES: usize = 30;
/// How often a running program is looked at. Short, so that a quick program is not made slow.
const POLL: Duration = Duration::from_millis(50);

/// Runs a program to its end, appending everything it prints to `log`. `watch` is called about every [`POLL`].
///
/// # Errors
/// When the program cannot be started, or ends with anything but success: then the end of the log has been printed.
pub(crate) fn logged(command: &mut Command, log: &Path, watch: impl FnMut(Duration)) -> Result<()> {
    logged_with(Stdio::null(), command, log, watch)
}

/// As [`logged`], with a standard input for the program and all that it starts.
pub(crate) fn logged_with(
    stdin: Stdio,
    command: &mut Command,
    log: &Path,
    mut watch: impl FnMut(Duration),
) -> Result<()> {
    let shown = shown(command);
    let mut file = fs::File::options().create(true).append(true).open(log)?;
    writeln!(file, "+ {shown}")?;
    let file = file.into_file();
    let started = Instant::now();
    let child = command
        .stdin(stdin)
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("Could not start `{shown}`"))?;
    let mut child = KillOnDrop(child);
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        watch(started.elapsed());
        std::thread::sleep(POLL);
    };
    if !status.success() {
        printer::quote(&tail(&fs::read(log)?));
        bail!(
            "`{shown}` failed with {status}; everything it said is in `{}`",
            log.display()
        );
    }
    Ok(())
}

/// Runs a program to its end and returns what it printed on stdout, without blanks around it.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("Could not start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns where `PATH` has a program of this name.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    // Debian leaves sbin out of an ordinary user's PATH; the programs there can still be run.
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|file| is_executable(file))
}

/// A build that nobody waits for any more must not go on in the background.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // Both can only fail if the process has ended by itself in between.
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

fn tail(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end() {
        let log: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        let log = log.join("\n");
        let tail = tail(log.as_bytes());
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 70") && tail.ends_with("line 99"));
        assert_eq!(super::tail(b"one"), "one");
        assert_eq!(super::tail(b""), "");
    }

    #[test]
    fn a_failure_names_the_program_and_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let error = logged(
            Command::new("sh").args(["-c", "echo broken; exit 3"]),
            &log,
            |_| (),
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.contains("log"),
            "{error}"
        );
        assert!(fs::read_to_string(&log).unwrap().contains("broken"));
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-program-has-this-name"), None);
    }
}
