//! The workload's standard output and error: two pipes that live as long as the guest, read into the log.
//!
//! The agent holds the far ends too. So a workload that is started again gets the same pipes, what outlives it goes on writing, and no
//! end of theirs is anything to wait for.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use common::agent::log::LogStream;

use super::Log;
use super::lines::Lines;
use crate::sys::Watched;
use crate::user::User;

/// The most bytes that are read before others get their turn: a workload that writes at full speed costs a few milliseconds at a time.
const TURN_BYTES: usize = 16 * 1024;

/// The most bytes of a pipe that are read to its end of the moment: a pipe of Linux holds no more (`fs.pipe-max-size`), so what comes
/// later is from a process that still writes.
const SETTLE_BYTES: usize = 1024 * 1024;

/// Both pipes.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: Arc<Pipe>,
    stderr: Arc<Pipe>,
}

#[derive(Debug)]
struct Pipe {
    near: Watched,
    far: OwnedFd,
    lines: Mutex<Lines>,
    stream: LogStream,
    log: Arc<Log>,
}

impl Output {
    /// Opens the pipes and begins to read. They are `owner`'s, who may open /dev/stdout anew.
    pub(crate) fn start(log: &Arc<Log>, owner: Option<&User>) -> io::Result<Self> {
        Ok(Self {
            stdout: Pipe::start(log, LogStream::Stdout, owner)?,
            stderr: Pipe::start(log, LogStream::Stderr, owner)?,
        })
    }

    /// Makes the pipes the output of a command.
    pub(crate) fn give_to(&self, command: &mut Command) -> io::Result<()> {
        command
            .stdout(Stdio::from(self.stdout.far.try_clone()?))
            .stderr(Stdio::from(self.stderr.far.try_clone()?));
        Ok(())
    }

    /// Takes all that was written until now, and completes lines that have no end: who wrote them is gone.
    pub(crate) fn settle(&self) {
        self.stdout.settle();
        self.stderr.settle();
    }
}

impl Pipe {
    fn start(log: &Arc<Log>, stream: LogStream, owner: Option<&User>) -> io::Result<Arc<Self>> {
        let (near, far) = io::pipe()?;
        if let Some(owner) = owner {
            fchown(&far, Some(owner.uid), Some(owner.gid))?;
        }
        let pipe = Arc::new(Self {
            near: Watched::for_reading(near.into())?,
            far: far.into(),
            lines: Mutex::default(),
            stream,
            log: Arc::clone(log),
        });
        tokio::spawn({
            let pipe = Arc::clone(&pipe);
            async move { pipe.read().await }
        });
        Ok(pipe)
    }

    async fn read(&self) {
        let mut buffer = vec![0; TURN_BYTES];
        // A pipe has no other failure than one of ours, and no end while its far end is held.
        while let Ok(count @ 1..) = self.near.read(&mut buffer).await {
            self.take(buffer.get(..count).unwrap_or_default());
            tokio::task::yield_now().await;
        }
    }

    fn settle(&self) {
        let mut buffer = vec![0; TURN_BYTES];
        for _ in 0..SETTLE_BYTES / TURN_BYTES {
            match self.near.read_now(&mut buffer) {
                Ok(count @ 1..) => self.take(buffer.get(..count).unwrap_or_default()),
                Ok(0) | Err(_) => break,
            }
        }
        let end = self.lines().end();
        if let Some(line) = end {
            self.log.keep(self.stream, line.text, line.partial);
        }
    }

    fn take(&self, bytes: &[u8]) {
        self.lines().take(bytes, |line| {
            self.log.keep(self.stream, line.text, line.partial);
        });
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::time::Duration;

    use super::super::tests::kept;
    use super::*;
    use crate::reaper::Reaper;
    use crate::reaper::tests::{alone, sh};
    use crate::sys::{GroupSignal, signal_group};

    fn texts(log: &Log, stream: LogStream) -> Vec<String> {
        kept(log)
            .into_iter()
            .filter(|line| line.stream == stream)
            .map(|line| line.line)
            .collect()
    }

    async fn run(output: &Output, reaper: &Reaper, script: &str) {
        let mut command = sh(script);
        output.give_to(&mut command).unwrap();
        let mut child = reaper.spawn(&mut command).unwrap();
        drop(command);
        child.ended().await;
        output.settle();
    }

    #[tokio::test]
    async fn both_streams_are_kept_apart_over_restarts() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let log = Arc::new(Log::new());
        let output = Output::start(&log, None).unwrap();
        run(
            &output,
            &reaper,
            "echo out; echo err >&2; printf unfinished",
        )
        .await;
        log.say("It ended");
        run(&output, &reaper, "echo again").await;
        assert_eq!(
            texts(&log, LogStream::Stdout),
            ["out", "unfinished", "again"]
        );
        assert_eq!(texts(&log, LogStream::Stderr), ["err"]);
        // All that it wrote stands before what is said about its end.
        let all: Vec<String> = kept(&log).into_iter().map(|line| line.line).collect();
        let ended = all.iter().position(|line| line == "It ended").unwrap();
        assert!(ended >= 3, "{all:?}");
    }

    async fn until(log: &Log, wanted: impl Fn(&[String]) -> bool) {
        let waiting = async {
            while !wanted(&texts(log, LogStream::Stdout)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "{:?}", kept(log).last());
    }

    #[tokio::test]
    async fn what_outlives_the_workload_blocks_nothing_and_is_read() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let log = Arc::new(Log::new());
        let output = Output::start(&log, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        let script = format!(
            "(while ! test -e {}; do sleep 0.02; done; echo late) & echo early",
            gate.display()
        );
        run(&output, &reaper, &script).await;
        assert_eq!(texts(&log, LogStream::Stdout), ["early"]);
        fs_err::write(&gate, "").unwrap();
        until(&log, |texts| texts == ["early", "late"]).await;
    }

    #[tokio::test]
    async fn a_workload_that_writes_at_full_speed_starves_nobody() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let log = Arc::new(Log::new());
        let output = Output::start(&log, None).unwrap();
        let mut command = sh("exec yes");
        output.give_to(&mut command).unwrap();
        command.process_group(0);
        let mut child = reaper.spawn(&mut command).unwrap();
        drop(command);
        until(&log, |texts| texts.len() > 2000).await;
        // Timers, other tasks and the reaper get their turns meanwhile.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = kept(&log);
        until(&log, |_| kept(&log)[0].seq > before.last().unwrap().seq).await;
        signal_group(child.pid(), GroupSignal::Kill);
        assert_eq!(child.ended().await.signal, Some(9));
        output.settle();
    }
}
