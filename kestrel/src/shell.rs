//! A root shell on the serial line, started by the first key pressed there. Until then it costs one entry in epoll.
//!
//! The workload's output goes to the same line and is not held back meanwhile. Whoever reaches the line is root in the guest
//! already by the VMM's socket; a manifest that wants no shell says so (`console.shell`).

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::boot::HOME;
use crate::console;
use crate::reaper::Reaper;
use crate::sys::{
    TerminalMode, Watched, controlling_terminal, open_terminal, set_blocking, set_terminal_mode,
};
use crate::workload::DEFAULT_PATH;

/// The serial line that both VMMs offer.
pub(crate) const SERIAL: &str = "/dev/ttyS0";

/// The shell, where an image has one.
pub(crate) const SHELL: &str = "/bin/sh";

/// What every terminal emulator understands.
const TERM: &str = "vt100";

/// How often a key is answered with the reason why there is no shell.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// The wait before the line is opened again after it broke or a shell could not start.
const REOPEN_WAIT: Duration = Duration::from_secs(1);

/// The shell that a key starts.
#[derive(Debug)]
pub(crate) struct ConsoleShell {
    /// The terminal's path.
    pub(crate) terminal: PathBuf,
    /// The shell's path.
    pub(crate) shell: PathBuf,
    /// Whether the manifest wants one.
    pub(crate) allowed: bool,
    /// For the prompt.
    pub(crate) host_name: String,
}

impl ConsoleShell {
    /// Waits for keys for good. Ends only if there is no terminal to wait at.
    pub(crate) async fn watch(self, reaper: Reaper) {
        let mut refused: Option<Instant> = None;
        loop {
            match self.key().await {
                Ok(()) => {}
                Err(error) if is_absent(&error) => return,
                Err(_) => {
                    tokio::time::sleep(REOPEN_WAIT).await;
                    continue;
                }
            }
            if let Some(reason) = self.refusal() {
                if refused.is_none_or(|at| at.elapsed() >= REFUSAL_INTERVAL) {
                    console::line(&reason);
                    refused = Some(Instant::now());
                }
                continue;
            }
            if let Err(error) = self.run(&reaper).await {
                console::line(&format!("The root shell does not start: {error}"));
                tokio::time::sleep(REOPEN_WAIT).await;
            }
        }
    }

    fn refusal(&self) -> Option<String> {
        if !self.allowed {
            return Some("The manifest switches the console's shell off".to_owned());
        }
        let shell = self.shell.display();
        (!self.shell.exists())
            .then(|| format!("The image has no {shell}, so the console has no shell"))
    }

    /// Waits for one byte and takes it. What follows stays for the shell.
    async fn key(&self) -> io::Result<()> {
        let terminal = open_terminal(&self.terminal)?;
        set_terminal_mode(&terminal, TerminalMode::Watch)?;
        let terminal = Watched::for_reading(terminal)?;
        let mut byte = [0];
        loop {
            match terminal.read(&mut byte).await? {
                // A line that hung up: it must be opened again.
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                // A break on the line arrives as NUL: nobody pressed a key.
                _ if byte == [0] => {}
                _ => return Ok(()),
            }
        }
    }

    /// Runs one shell to its end.
    async fn run(&self, reaper: &Reaper) -> io::Result<()> {
        let terminal = open_terminal(&self.terminal)?;
        set_terminal_mode(&terminal, TerminalMode::Shell)?;
        set_blocking(&terminal)?;
        let mut command = Command::new(&self.shell);
        command
            .arg0("-sh")
            .arg("-i")
            .env_clear()
            .env("PATH", DEFAULT_PATH)
            .env("HOME", HOME)
            .env("USER", "root")
            .env("TERM", TERM)
            .env("PS1", format!("{} # ", self.host_name))
            .current_dir("/")
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal);
        controlling_terminal(&mut command);
        console::line(&format!(
            "Root shell in `{}`: `exit` leaves it, the guest goes on",
            self.host_name
        ));
        let mut child = reaper.spawn(&mut command)?;
        // The command holds the terminal open; a hang-up must find it closed here.
        drop(command);
        child.ended().await;
        console::line("The shell has ended; a key starts another");
        Ok(())
    }
}

/// Whether there is no such device at all: a VM without a serial line.
fn is_absent(error: &io::Error) -> bool {
    const ENXIO: i32 = 6;
    const ENODEV: i32 = 19;
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(ENXIO | ENODEV))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::reaper::tests::alone;
    use crate::sys::open_pty;

    fn shell(terminal: PathBuf, allowed: bool) -> ConsoleShell {
        ConsoleShell {
            terminal,
            shell: SHELL.into(),
            allowed,
            host_name: "web".to_owned(),
        }
    }

    async fn read_until(near: &File, end: &str) -> String {
        let near = Watched::for_reading(near.try_clone().unwrap().into()).unwrap();
        let mut text = String::new();
        let reading = async {
            while !text.contains(end) {
                let mut piece = [0; 512];
                let read = near.read(&mut piece).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        };
        let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
        assert!(read.is_ok(), "no {end:?} in {text:?}");
        text
    }

    #[tokio::test]
    async fn a_key_starts_a_shell_and_another_key_the_next() {
        let _alone = alone().await;
        let (mut near, far) = open_pty();
        let reaper = Reaper::start().unwrap();
        // Not a login shell: this machine's /etc/profile would change the prompt.
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("sh");
        fs_err::write(&plain, "#!/bin/sh\nexec /bin/sh -i\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(&plain, mode).unwrap();
        let mut console = shell(far, true);
        console.shell = plain;
        let watching = tokio::spawn(console.watch(reaper));
        for _ in 0..2 {
            near.write_all(b"x").unwrap();
            read_until(&near, "web # ").await;
            // The controlling terminal is there: /dev/tty opens.
            near.write_all(b"echo $((40 + 2)) $TERM $HOME > /dev/tty\n")
                .unwrap();
            read_until(&near, "42 vt100 /root").await;
            near.write_all(b"exit\n").unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        watching.abort();
    }

    #[tokio::test]
    async fn while_it_waits_keys_are_not_echoed() {
        let _alone = alone().await;
        let (mut near, far) = open_pty();
        let reaper = Reaper::start().unwrap();
        let watching = tokio::spawn(shell(far, false).watch(reaper));
        tokio::time::sleep(Duration::from_millis(100)).await;
        near.write_all(b"abc\r").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut waiting = [nix::poll::PollFd::new(
            near.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        assert_eq!(nix::poll::poll(&mut waiting, 0_u8), Ok(0));
        assert!(!watching.is_finished());
        watching.abort();
    }

    #[tokio::test]
    async fn without_a_terminal_nothing_is_watched() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let watching = shell("/dev/no-such-line".into(), true).watch(reaper);
        tokio::time::timeout(Duration::from_secs(5), watching)
            .await
            .expect("an end");
    }

    #[test]
    fn a_refusal_says_why() {
        let mut console = shell("/dev/null".into(), false);
        assert_eq!(
            console.refusal().as_deref(),
            Some("The manifest switches the console's shell off")
        );
        console.allowed = true;
        assert_eq!(console.refusal(), None);
        console.shell = "/no/such/sh".into();
        assert_eq!(
            console.refusal().as_deref(),
            Some("The image has no /no/such/sh, so the console has no shell")
        );
    }
}
