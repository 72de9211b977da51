//! volar as a user types it: each call is the real program, and what it printed is the answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use common::api::Vm;

use super::daemon::Daemon;
use crate::printer;

/// How long a log may take to show what happened.
const FOLLOW_LIMIT: Duration = Duration::from_mins(1);
/// The wait between two provocations.
const PROVOKE_PAUSE: Duration = Duration::from_millis(500);

/// The program and the daemon that it talks to.
#[derive(Debug, Clone)]
pub(super) struct Volar {
    program: PathBuf,
    api: String,
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Volar {
    pub(super) fn new(dist: &std::path::Path, daemon: &Daemon) -> Self {
        Self {
            program: dist.join("volar"),
            api: format!("unix://{}", daemon.socket().display()),
        }
    }

    /// A call that is not run yet.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("VOLANT_API_BASE", &self.api)
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs a call to its end, whatever that is.
    pub(super) fn call(&self, words: &[&str]) -> Result<Said> {
        let output = self
            .command(words)
            .output()
            .with_context(|| format!("`{}` could not be started", self.program.display()))?;
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a call that must go well, shown as a user would type it.
    pub(super) fn ok(&self, words: &[&str]) -> Result<String> {
        printer::progress("$ volar", &words.join(" "));
        let said = self.call(words)?;
        if said.code != 0 {
            printer::quote(&said.stdout);
            printer::quote(&said.stderr);
            bail!(
                "`volar {}` ended with exit code {}",
                words.join(" "),
                said.code
            );
        }
        Ok(said.stdout)
    }

    /// Runs a call that must be refused with this exit code and a sentence that holds `sentence`.
    pub(super) fn refused(&self, words: &[&str], code: i32, sentence: &str) -> Result<()> {
        printer::progress(
            "$ volar",
            &format!("{}   (must be refused)", words.join(" ")),
        );
        let said = self.call(words)?;
        if said.code != code || !said.stderr.contains(sentence) {
            printer::quote(&said.stdout);
            printer::quote(&said.stderr);
            bail!(
                "`volar {}` ended with exit code {}, where {code} and `{sentence}` were expected",
                words.join(" "),
                said.code
            );
        }
        let first = said
            .stderr
            .lines()
            .find(|line| line.contains(sentence))
            .unwrap_or_default();
        printer::quote(first.trim());
        Ok(())
    }

    /// A VM as the API has it.
    pub(super) fn vm(&self, name: &str) -> Result<Vm> {
        let said = self.call(&["vms", "get", name, "-o", "json"])?;
        if said.code != 0 {
            bail!(
                "`volar vms get {name}` ended with exit code {}: {}",
                said.code,
                said.stderr
            );
        }
        serde_json::from_str(&said.stdout)
            .with_context(|| format!("`volar vms get -o json` printed {}", said.stdout))
    }

    /// All VMs.
    pub(super) fn vms(&self) -> Result<Vec<Vm>> {
        let said = self.call(&["vms", "list", "-o", "json"])?;
        if said.code != 0 {
            bail!(
                "`volar vms list` ended with exit code {}: {}",
                said.code,
                said.stderr
            );
        }
        serde_json::from_str(&said.stdout)
            .with_context(|| format!("`volar vms list -o json` printed {}", said.stdout))
    }

    /// Asks for a VM's log until it holds `expected`: what the guest says is on its way for a moment.
    pub(super) fn log_with(&self, name: &str, expected: &str) -> Result<String> {
        let deadline = Instant::now() + FOLLOW_LIMIT;
        loop {
            let log = self.ok(&["vms", "logs", name])?;
            if log.contains(expected) {
                return Ok(log);
            }
            if Instant::now() > deadline {
                bail!("`volar vms logs {name}` does not show `{expected}`: {log}");
            }
            std::thread::sleep(PROVOKE_PAUSE);
        }
    }

    /// Begins to follow a VM's log from here on.
    pub(super) fn follow_log(&self, name: &str) -> Result<Following> {
        let mut child = self
            .command(&["vms", "logs", name, "-f", "--tail", "0"])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("No stdout")?;
        let (sender, lines) = std::sync::mpsc::channel();
        // It ends with the program, whose output closes then.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        Ok(Following { child, lines })
    }

    /// Types on a VM's console until its output holds `expected`, then leaves by the stated escape. Returns the output.
    pub(super) fn type_on_console(
        &self,
        name: &str,
        lines: &[&str],
        expected: &str,
    ) -> Result<String> {
        printer::progress(
            "$ volar",
            &format!("vms console {name}   (typing {lines:?})"),
        );
        let mut child = self
            .command(&["vms", "console", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("No stdin")?;
        let mut stdout = child.stdout.take().context("No stdout")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut seen = String::new();
        let deadline = Instant::now() + Duration::from_mins(1);
        // The first key wakes the shell; its prompt says that it reads.
        stdin.write_all(b"\n")?;
        let mut pending = lines.iter();
        let mut waiting_for = "#".to_owned();
        let mut from = 0;
        while Instant::now() < deadline {
            if let Ok(bytes) = receiver.recv_timeout(Duration::from_millis(200)) {
                seen.push_str(&String::from_utf8_lossy(&bytes));
            }
            if seen[from..].contains(&waiting_for) {
                from = seen.len();
                match pending.next() {
                    Some(line) => {
                        stdin.write_all(format!("{line}\n").as_bytes())?;
                        waiting_for = if pending.len() == 0 {
                            expected.to_owned()
                        } else {
                            "#".to_owned()
                        };
                    }
                    None => break,
                }
            }
        }
        // Ctrl-], the stated escape.
        stdin.write_all(&[0x1d])?;
        drop(stdin);
        let status = child.wait()?;
        drop(reader.join());
        if !status.success() || !seen.contains(expected) {
            printer::quote(&seen);
            bail!("The console of `{name}` did not show `{expected}` (volar ended with {status})");
        }
        Ok(seen)
    }
}

/// A `volar vms logs -f` that runs.
#[derive(Debug)]
pub(super) struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    /// Reads until the log holds `expected`, provoking it again and again meanwhile.
    pub(super) fn wait_for(&mut self, expected: &str, provoke: impl Fn()) -> Result<()> {
        let mut seen = String::new();
        let deadline = Instant::now() + FOLLOW_LIMIT;
        while !seen.contains(expected) {
            if Instant::now() > deadline {
                bail!("The followed log did not show `{expected}` within {FOLLOW_LIMIT:?}: {seen}");
            }
            provoke();
            match self.lines.recv_timeout(PROVOKE_PAUSE) {
                Ok(line) => seen.push_str(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("The followed log ended without `{expected}`: {seen}")
                }
            }
        }
        Ok(())
    }

    /// Ends it; it must have gone on until now.
    pub(super) fn end(mut self) -> Result<()> {
        let early = self.child.try_wait()?;
        self.child.kill()?;
        self.child.wait()?;
        match early {
            None => Ok(()),
            Some(status) => bail!("`volar vms logs -f` ended by itself with {status}"),
        }
    }
}
