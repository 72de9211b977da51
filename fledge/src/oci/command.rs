//! Runs the programs of others: credential helpers, container engines, builders. Bounded in time and output, ended when the user
//! presses Ctrl-C. Knows none of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// The most that is kept of what a program answers, in bytes: credentials and inspections have a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// The last lines that are kept for an error.
const MAX_LAST_LINES: usize = 20;

/// How much is kept of one of them, in bytes.
const MAX_LINE_BYTES: u64 = 2000;

/// How long a program may take to end after it was asked to: builders remove their working containers then.
const END_GRACE: Duration = Duration::from_secs(5);

/// How long output is waited for after a program ended: something that it left behind may hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// A program that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be run.
    #[error("Cannot run `{program}`")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says that it failed.
    #[error("`{program}` failed ({status}){}", said(last_lines))]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said last, possibly nothing.
        last_lines: String,
    },
    /// It takes too long.
    #[error("`{program}` did not answer within {limit_s} seconds")]
    Timeout {
        /// Its name.
        program: String,
        /// The limit.
        limit_s: u64,
    },
    /// The user pressed Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
}

fn said(last_lines: &str) -> String {
    if last_lines.is_empty() {
        String::new()
    } else {
        format!(":\n{last_lines}")
    }
}

/// Where programs are looked for.
#[derive(Debug, Clone, Default)]
pub struct Programs(Vec<PathBuf>);

impl Programs {
    /// Those of a `PATH`; relative directories in it do not count.
    pub fn in_path(path: Option<&OsStr>) -> Self {
        let directories = path.map(std::env::split_paths).into_iter().flatten();
        Self(directories.filter(|path| path.is_absolute()).collect())
    }

    /// The program called `name`, if it is there.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            fs_err::metadata(path).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        };
        let paths = self.0.iter().map(|directory| directory.join(name));
        paths.into_iter().find(is_program)
    }
}

/// Where the output of a program goes.
#[derive(Debug)]
pub(super) enum Output {
    /// It is an answer.
    Keep,
    /// Into a file.
    File(File),
    /// It is for people, like what it says beside it.
    Lines,
}

/// A program to run.
pub(super) struct Run<'a> {
    /// It.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment in addition to this program's.
    pub variables: Vec<(&'static str, String)>,
    /// What it reads.
    pub input: Vec<u8>,
    /// Where its output goes.
    pub output: Output,
    /// How long it may take, if there is a limit.
    pub limit: Option<Duration>,
    /// Is told each line that is for people.
    pub on_line: &'a dyn Fn(&str),
    /// Becomes true when the user presses Ctrl-C.
    pub interrupted: watch::Receiver<bool>,
}

impl std::fmt::Debug for Run<'_> {
    // The input may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

/// What a program says to people.
struct Said<'a> {
    on_line: &'a dyn Fn(&str),
    /// The last lines.
    last: RefCell<VecDeque<String>>,
}

impl Run<'_> {
    /// Runs it, and returns its output where that is kept.
    ///
    /// # Errors
    /// Where it does not end well in time.
    pub(super) async fn finish(self) -> Result<Vec<u8>, CommandError> {
        let program = self.program.display().to_string();
        let start = |source| CommandError::Start {
            program: program.clone(),
            source,
        };
        let is_answer = matches!(self.output, Output::Keep);
        let stdout = match self.output {
            Output::File(file) => Stdio::from(file),
            Output::Keep | Output::Lines => Stdio::piped(),
        };
        let mut child = Command::new(self.program)
            .args(&self.arguments)
            .envs(self.variables)
            // Builders run what others wrote: the key of `fledge serve` is not theirs.
            .env_remove(crate::serve::KEY_VARIABLE)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts can be ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let mut answer = Vec::new();
        let said = Said {
            on_line: self.on_line,
            last: RefCell::default(),
        };
        let mut interrupted = self.interrupted;
        let limit = self.limit.unwrap_or(Duration::MAX);
        let result = tokio::select! {
            status = converse(&mut child, &self.input, is_answer.then_some(&mut answer), &said) => status.map_err(start),
            Ok(_) = interrupted.wait_for(|&stop| stop) => Err(CommandError::Interrupted),
            () = tokio::time::sleep(limit) => Err(CommandError::Timeout {
                program: program.clone(),
                limit_s: limit.as_secs(),
            }),
        };
        match result {
            Ok(status) if status.success() => Ok(answer),
            Ok(status) => Err(CommandError::Failed {
                program,
                status,
                last_lines: said.last.take().make_contiguous().join("\n"),
            }),
            Err(error) => {
                end(&mut child).await;
                Err(error)
            }
        }
    }
}

/// Feeds a program, reads what it says and waits until it ends.
async fn converse(
    child: &mut Child,
    input: &[u8],
    answer: Option<&mut Vec<u8>>,
    said: &Said<'_>,
) -> io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // Who does not read it does not need it.
                drop(stdin.write_all(input).await);
            }
        };
        let keep = async {
            let Some(stdout) = stdout else { return };
            if let Some(answer) = answer {
                let mut limited = stdout.take(MAX_ANSWER_BYTES);
                drop(limited.read_to_end(answer).await);
                let mut rest = limited.into_inner();
                drop(tokio::io::copy(&mut rest, &mut tokio::io::sink()).await);
            } else {
                said.listen(stdout).await;
            }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                said.listen(stderr).await;
            }
        };
        tokio::join!(feed, keep, listen);
    };
    tokio::pin!(talk);
    let mut is_silent = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                if !is_silent {
                    drop(tokio::time::timeout(OUTPUT_GRACE, &mut talk).await);
                }
                return status;
            }
            () = &mut talk, if !is_silent => is_silent = true,
        }
    }
}

impl Said<'_> {
    async fn listen(&self, stream: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            // What is longer comes as several lines.
            match (&mut reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut line)
                .await
            {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            (self.on_line)(text);
            let mut last = self.last.borrow_mut();
            if last.len() == MAX_LAST_LINES {
                last.pop_front();
            }
            last.push_back(text.to_owned());
        }
    }
}

/// Asks a program and all that it started to end, and makes it.
async fn end(child: &mut Child) {
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    for (signal, grace) in [(Signal::SIGTERM, END_GRACE), (Signal::SIGKILL, END_GRACE)] {
        if let Some(group) = group {
            // It may have ended by itself meanwhile.
            let _ = killpg(group, signal);
        }
        if tokio::time::timeout(grace, child.wait()).await.is_ok() {
            return;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use super::*;

    /// A shell script called `name` in `directory`.
    pub(in crate::oci) fn script(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        fs_err::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    pub(in crate::oci) fn never() -> watch::Receiver<bool> {
        watch::channel(false).1
    }

    /// The number of the process that a script writes to `path`, as soon as it is there.
    pub(in crate::oci) async fn process_in(path: &Path) -> u32 {
        loop {
            let text = fs_err::read_to_string(path).unwrap_or_default();
            if let Some(number) = text.strip_suffix('\n') {
                return number.parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a process is gone, or only its parent has not taken note yet.
    pub(in crate::oci) async fn ended(process: u32) {
        let stat = format!("/proc/{process}/stat");
        while fs_err::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn run<'a>(program: &'a Path, on_line: &'a dyn Fn(&str)) -> Run<'a> {
        Run {
            program,
            arguments: Vec::new(),
            variables: Vec::new(),
            input: Vec::new(),
            output: Output::Keep,
            limit: None,
            on_line,
            interrupted: never(),
        }
    }

    #[tokio::test]
    async fn output_and_last_lines_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(
            directory.path(),
            "x",
            "cat; for i in $(seq 30); do echo line $i >&2; done; exit $CODE",
        );
        let heard = RefCell::new(0);
        let on_line = |_: &str| *heard.borrow_mut() += 1;
        let with_code = |code: &str| Run {
            variables: vec![("CODE", code.to_owned())],
            input: b"in".to_vec(),
            ..run(&program, &on_line)
        };
        assert_eq!(with_code("0").finish().await.unwrap(), b"in");
        let message = with_code("3").finish().await.unwrap_err().to_string();
        assert!(
            message.contains("(exit status: 3):\nline 11\n") && message.ends_with("line 30"),
            "{message}"
        );
        assert_eq!(*heard.borrow(), 60);
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let child = directory.path().join("child");
        let text = format!("sleep 600 & echo $! > {}; wait", child.display());
        let program = script(directory.path(), "x", &text);
        let late = Run {
            limit: Some(Duration::from_millis(300)),
            ..run(&program, &|_| {})
        };
        assert!(matches!(
            late.finish().await,
            Err(CommandError::Timeout { .. })
        ));
        // It may have been ended before it began anything.
        drop(fs_err::remove_file(&child));
        let (sender, interrupted) = watch::channel(false);
        let stopped = Run {
            interrupted,
            ..run(&program, &|_| {})
        };
        let (result, process) = tokio::join!(stopped.finish(), async {
            let process = process_in(&child).await;
            sender.send(true).unwrap();
            process
        });
        assert!(matches!(result, Err(CommandError::Interrupted)));
        ended(process).await;
    }

    #[tokio::test]
    async fn what_is_left_behind_does_not_hold_it_up() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "x", "sleep 20 & echo done");
        let begin = Instant::now();
        assert_eq!(run(&program, &|_| {}).finish().await.unwrap(), b"done\n");
        assert!(begin.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn programs_are_found_in_absolute_directories_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "tool", "");
        fs_err::write(directory.path().join("data"), "").unwrap();
        let programs = Programs::in_path(Some(directory.path().as_os_str()));
        assert_eq!(programs.find("tool"), Some(path));
        assert_eq!(programs.find("data"), None);
        assert_eq!(
            Programs::in_path(Some(OsStr::new(".:src"))).0,
            Vec::<PathBuf>::new()
        );
        assert_eq!(Programs::in_path(None).find("tool"), None);
    }
}
