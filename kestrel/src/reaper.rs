//! The one place that waits for children. As PID 1 it also takes the statuses of orphans, which nobody else would.
//!
//! All that starts processes runs on one thread: between a fork and the entry in the list the reaper cannot run, so no status is lost.
//! `tokio::process` must not be used beside it: both would wait for the same child.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::sys::{Reaped, reap_next};

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Reaped>>>>;

/// Starts children and learns of their ends.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    waiting: Waiting,
}

/// A child that was started here.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    end: oneshot::Receiver<Reaped>,
    reaped: Option<Reaped>,
}

impl Reaper {
    /// Begins to take statuses, on every SIGCHLD and never otherwise.
    pub(crate) fn start() -> io::Result<Self> {
        let mut children = signal(SignalKind::child())?;
        let waiting = Waiting::default();
        let reaper = Self {
            waiting: Arc::clone(&waiting),
        };
        tokio::spawn(async move {
            // One signal may stand for many children, and some may have ended before it was listened for.
            reap_all(&waiting);
            while children.recv().await.is_some() {
                reap_all(&waiting);
            }
        });
        Ok(reaper)
    }

    /// Takes no statuses at all, for what starts no children.
    #[cfg(test)]
    pub(crate) fn idle() -> Self {
        Self {
            waiting: Waiting::default(),
        }
    }

    /// Starts a child.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let pid = command.spawn()?.id();
        let (sender, end) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, sender);
        Ok(Child {
            pid,
            end,
            reaped: None,
        })
    }
}

fn reap_all(waiting: &Waiting) {
    while let Some(reaped) = reap_next() {
        let waiter = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&reaped.pid);
        // No waiter: an orphan. A waiter that is gone: nobody wants to know any more.
        let _told = waiter.map(|waiter| waiter.send(reaped));
    }
}

impl Child {
    /// The process id, also the number of the group if it leads one.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end. May be dropped and called again, and has the same answer each time.
    pub(crate) async fn ended(&mut self) -> Reaped {
        if let Some(reaped) = self.reaped {
            return reaped;
        }
        match (&mut self.end).await {
            Ok(reaped) => *self.reaped.insert(reaped),
            // The reaper's task never ends while this runtime lives, so the wait is for the runtime's own end.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use tokio::sync::MutexGuard;

    use super::*;
    use crate::sys::adopt_orphans;

    static CHILDREN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// The reaper takes every child of the process: tests that start some must not overlap.
    pub(crate) async fn alone() -> MutexGuard<'static, ()> {
        CHILDREN.lock().await
    }

    pub(crate) fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn each_child_gets_its_own_status() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let mut children: Vec<(i32, Child)> = (0..8)
            .map(|code| {
                let child = reaper.spawn(&mut sh(&format!("exit {code}"))).unwrap();
                (code, child)
            })
            .collect();
        for (code, child) in &mut children {
            let reaped = child.ended().await;
            assert_eq!((reaped.pid, reaped.code), (child.pid(), *code));
            assert_eq!(child.ended().await, reaped);
        }
        assert!(reaper.waiting.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_signal_is_told() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let mut child = reaper.spawn(&mut sh("kill -9 $$")).unwrap();
        let reaped = child.ended().await;
        assert_eq!((reaped.code, reaped.signal), (137, Some(9)));
    }

    #[tokio::test]
    async fn orphans_do_not_stay_zombies() {
        let _alone = alone().await;
        adopt_orphans();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let reaper = Reaper::start().unwrap();
        let script = format!("(sleep 0.05) & echo $! > {}", file.display());
        let mut parent = reaper.spawn(&mut sh(&script)).unwrap();
        parent.ended().await;
        let orphan = fs_err::read_to_string(&file).unwrap();
        let proc = format!("/proc/{}", orphan.trim());
        for _ in 0..200 {
            if !std::path::Path::new(&proc).exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{proc} is still there");
    }

    #[tokio::test]
    async fn a_program_that_does_not_start_is_nobodys_child() {
        let _alone = alone().await;
        let reaper = Reaper::start().unwrap();
        let error = reaper
            .spawn(&mut Command::new("/does/not/exist"))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(reaper.waiting.lock().unwrap().is_empty());
    }
}
