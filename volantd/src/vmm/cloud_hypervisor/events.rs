//! The events that Cloud Hypervisor reports, through a named pipe that outlives the daemon. Knows only those that tell how a VM ends.
//!
//! Both ends open the pipe for reading and writing, so it holds events (at most the kernel's 64 KiB) while no daemon lives, and the next
//! one reads them. A full pipe loses events, never time: Cloud Hypervisor writes without blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use fs_err as fs;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde::Deserialize;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::task;
use crate::vmm::process::Process;
use crate::vmm::sys::End;

/// More than any record has, in bytes; what is longer is not a record.
const MAX_RECORD_BYTES: usize = 16 * 1024;

/// What the events told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The guest asked for a reset.
    pub(super) reset: bool,
    /// The VMM went down in order.
    pub(super) shutdown: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    source: String,
    event: String,
}

/// Makes the pipe: our end, and the one for the child.
pub(super) fn create(path: &Path) -> io::Result<(pipe::Receiver, OwnedFd)> {
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let writer = fs::OpenOptions::new().read(true).write(true).open(path)?;
    Ok((open(path)?, writer.into_file().into()))
}

/// Opens our end of a pipe that was made for an earlier daemon.
pub(super) fn open(path: &Path) -> io::Result<pipe::Receiver> {
    pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(path)
}

/// Follows the events until the process has ended; then the channel has what was seen. A guest that resets is ended at once.
pub(super) fn follow(receiver: pipe::Receiver, process: Process) -> watch::Receiver<Option<Seen>> {
    let (sender, seen) = watch::channel(None);
    let _detached = task::spawn("vmm-events", async move {
        let mut follower = Follower::default();
        loop {
            let ended = tokio::select! {
                ready = receiver.readable() => ready.is_err(),
                _ = process.ended() => true,
            };
            follower.drain(&receiver);
            if ended {
                break;
            }
            if follower.seen.reset {
                // It would boot the guest again: a panicking guest would go round for ever.
                let _ignored = process.signal(End::Kill);
            }
        }
        sender.send_replace(Some(follower.seen));
    });
    seen
}

#[derive(Debug, Default)]
struct Follower {
    buffer: Vec<u8>,
    seen: Seen,
}

impl Follower {
    fn drain(&mut self, receiver: &pipe::Receiver) {
        let mut chunk = [0; 4096];
        // Ends with `WouldBlock`: there is always a writer, this end itself.
        while let Ok(count) = receiver.try_read(&mut chunk) {
            if count == 0 {
                return;
            }
            self.take(&chunk[..count]);
        }
    }

    /// Records are JSON objects that hold no blank line, with a blank line after each.
    fn take(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let record: Vec<u8> = self.buffer.drain(..end + 2).collect();
            if let Ok(event) = serde_json::from_slice::<Event>(&record) {
                self.note(&event);
            }
        }
        if self.buffer.len() > MAX_RECORD_BYTES {
            self.buffer.clear();
        }
    }

    fn note(&mut self, event: &Event) {
        tracing::debug!(
            source = event.source,
            event = event.event,
            "cloud hypervisor event"
        );
        match (event.source.as_str(), event.event.as_str()) {
            ("vm", "rebooting") => self.seen.reset = true,
            ("vmm", "shutdown") => self.seen.shutdown = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn record(source: &str, event: &str) -> String {
        format!(
            "{{\n  \"timestamp\": {{\n    \"secs\": 0,\n    \"nanos\": 163112\n  }},\n  \"source\": \"{source}\",\n  \
             \"event\": \"{event}\",\n  \"properties\": null\n}}\n\n"
        )
    }

    fn seen(parts: &[&[u8]]) -> Seen {
        let mut follower = Follower::default();
        for part in parts {
            follower.take(part);
        }
        follower.seen
    }

    #[test]
    fn the_end_of_a_guest_is_seen_however_the_bytes_arrive() {
        let text = [
            record("vmm", "starting"),
            record("vm", "booted"),
            record("vm", "rebooting"),
        ]
        .concat();
        let expected = Seen {
            reset: true,
            shutdown: false,
        };
        assert_eq!(seen(&[text.as_bytes()]), expected);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(seen(&bytes), expected);
        assert_eq!(seen(&[&text.as_bytes()[..text.len() - 1]]), Seen::default());
        assert_eq!(
            seen(&[record("vmm", "shutdown").as_bytes()]),
            Seen {
                reset: false,
                shutdown: true
            }
        );
    }

    #[test]
    fn garbage_is_passed_over() {
        let text = [
            "}\n\nnonsense\n\n",
            &"x".repeat(2 * MAX_RECORD_BYTES),
            "\n\n",
            &record("vm", "rebooting"),
        ]
        .concat();
        assert!(seen(&[text.as_bytes()]).reset);
    }

    proptest! {
        #[test]
        fn no_bytes_hurt(parts in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let _seen = seen(&parts);
        }
    }
}
