//! QMP, QEMU's control protocol: JSON lines over a unix socket. One command at a time; of the events only those that tell how a VM ends.
//!
//! Protocol: docs/interop/qmp-spec of QEMU. Decides nothing about VMs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

use crate::machine::ports::StepError;
use crate::task;
use crate::vmm::process::Process;
use crate::vmm::sys::End;

/// The longest line that is read, in bytes. The answers used here have less than 4 KiB.
const MAX_LINE_BYTES: usize = 256 * 1024;

/// The most that is shown of something that QEMU said, in characters.
const SHOWN_CHARS: usize = 300;

/// Answers that may wait for their command: more than the one that is in flight are late ones of commands that were given up.
const REPLIES: usize = 8;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// QEMU said no.
    #[error("QEMU refused `{command}`: {reason}")]
    Rejected {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        reason: String,
    },
    /// It does not speak QMP.
    #[error("QEMU's control socket does not speak QMP: `{line}`")]
    Garbled {
        /// What came instead.
        line: String,
    },
    /// The connection failed.
    #[error("QEMU's control socket cannot be used")]
    Connection(#[source] io::Error),
    /// The connection ended.
    #[error("QEMU closed its control socket")]
    Closed,
    /// There was no answer in time.
    #[error("QEMU did not answer `{command}` within {} ms", wait.as_millis())]
    Late {
        /// The command.
        command: &'static str,
        /// How long was waited.
        wait: Duration,
    },
}

impl From<QmpError> for StepError {
    fn from(error: QmpError) -> Self {
        let message = error.to_string();
        match error {
            QmpError::Connection(source) => Self::caused(message, source),
            _ => Self::new(message),
        }
    }
}

/// What the events told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Why QEMU went down.
    pub(super) shutdown: Option<Shutdown>,
    /// The guest was stopped though nobody asked for it: an error of QEMU or KVM.
    pub(super) stopped: bool,
}

/// Why QEMU went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// The guest powered off, or QEMU was asked to end.
    Ordered,
    /// The guest asked for a reset, or said that it panicked.
    Reset,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    result: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Debug)]
struct Reply {
    id: u64,
    answer: Result<Value, String>,
}

/// A connection to one QEMU. It serves one client at a time, which is the daemon.
#[derive(Debug)]
pub(super) struct Qmp {
    commands: Mutex<Commands>,
    /// Whether the guest stops because it was told to.
    stop_wanted: Arc<AtomicBool>,
    seen: watch::Receiver<Option<Seen>>,
}

#[derive(Debug)]
struct Commands {
    writer: OwnedWriteHalf,
    replies: mpsc::Receiver<Reply>,
    last_id: u64,
}

impl Qmp {
    /// Connects, and follows the events from here on. Waits for QEMU's greeting as long as the caller lets it.
    pub(super) async fn connect(socket: &Path, process: Process) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(QmpError::Connection)?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = next(&mut reader).await?.ok_or(QmpError::Closed)?;
        if greeting.greeting.is_none() {
            return Err(QmpError::Garbled {
                line: "no greeting".to_owned(),
            });
        }
        let hello = json!({"execute": "qmp_capabilities"});
        send(&mut writer, &hello).await?;
        let (reply_sender, replies) = mpsc::channel(REPLIES);
        let (seen_sender, seen) = watch::channel(None);
        let mut follower = Follower::default();
        let stop_wanted = Arc::clone(&follower.stop_wanted);
        loop {
            let message = next(&mut reader).await?.ok_or(QmpError::Closed)?;
            if let Some(refusal) = message.error {
                return Err(QmpError::Rejected {
                    command: "qmp_capabilities",
                    reason: shown(&refusal.desc),
                });
            }
            if message.result.is_some() {
                break;
            }
            follower.note(&message);
        }
        let _detached = task::spawn(
            "vmm-events",
            follow(reader, follower, process, reply_sender, seen_sender),
        );
        Ok(Self {
            commands: Mutex::new(Commands {
                writer,
                replies,
                last_id: 0,
            }),
            stop_wanted,
            seen,
        })
    }

    /// Runs a command without arguments.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        wait: Duration,
    ) -> Result<Value, QmpError> {
        // The wait for an earlier command counts too.
        timeout(wait, async {
            self.commands.lock().await.execute(command).await
        })
        .await
        .unwrap_or(Err(QmpError::Late { command, wait }))
    }

    /// Makes the guest's CPUs stand still; fine if they do.
    pub(super) async fn pause(&self, wait: Duration) -> Result<(), QmpError> {
        // Before the command: its event comes before its answer.
        self.stop_wanted.store(true, Ordering::SeqCst);
        let answer = self.execute("stop", wait).await;
        if let Err(QmpError::Rejected { .. }) = answer {
            self.stop_wanted.store(false, Ordering::SeqCst);
        }
        answer.map(drop)
    }

    /// Makes the guest's CPUs go on; fine if they do.
    pub(super) async fn resume(&self, wait: Duration) -> Result<(), QmpError> {
        self.execute("cont", wait).await?;
        self.stop_wanted.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// What the events told, once the connection has ended.
    pub(super) async fn seen(&self, wait: Duration) -> Seen {
        let mut seen = self.seen.clone();
        match timeout(wait, seen.wait_for(Option::is_some)).await {
            Ok(Ok(seen)) => (*seen).unwrap_or_default(),
            _ => Seen::default(),
        }
    }
}

impl Commands {
    async fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        send(&mut self.writer, &json!({"execute": command, "id": id})).await?;
        loop {
            let reply = self.replies.recv().await.ok_or(QmpError::Closed)?;
            // An older one answers a command that was given up.
            if reply.id == id {
                return reply
                    .answer
                    .map_err(|reason| QmpError::Rejected { command, reason });
            }
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, message: &Value) -> Result<(), QmpError> {
    let line = format!("{message}\n");
    writer
        .write_all(line.as_bytes())
        .await
        .map_err(QmpError::Connection)
}

/// Reads until the connection ends; then the channel has what was seen. A guest that was stopped by an error is ended.
async fn follow(
    mut reader: BufReader<OwnedReadHalf>,
    mut follower: Follower,
    process: Process,
    replies: mpsc::Sender<Reply>,
    seen: watch::Sender<Option<Seen>>,
) {
    loop {
        match next(&mut reader).await {
            Ok(Some(message)) => {
                follower.note(&message);
                if follower.seen.stopped && follower.seen.shutdown.is_none() {
                    let _ignored = process.signal(End::Kill);
                }
                if let (Some(id), Some(answer)) =
                    (message.id, answer(message.result, message.error))
                {
                    // Nobody waits for an answer that finds no room.
                    let _ignored = replies.try_send(Reply { id, answer });
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(error = %common::error_chain::Chain(&error), "qmp connection failed");
                break;
            }
        }
    }
    seen.send_replace(Some(follower.seen));
}

fn answer(result: Option<Value>, error: Option<Refusal>) -> Option<Result<Value, String>> {
    match (result, error) {
        (_, Some(refusal)) => Some(Err(shown(&refusal.desc))),
        (Some(result), None) => Some(Ok(result)),
        (None, None) => None,
    }
}

#[derive(Debug, Default)]
struct Follower {
    seen: Seen,
    stop_wanted: Arc<AtomicBool>,
}

impl Follower {
    fn note(&mut self, message: &Message) {
        let Some(event) = message.event.as_deref() else {
            return;
        };
        tracing::debug!(event, "qemu event");
        match event {
            // `reason` is a ShutdownCause of qapi/run-state.json.
            "SHUTDOWN" => {
                let reason = message.data.get("reason").and_then(Value::as_str);
                self.seen.shutdown = Some(match reason {
                    Some("guest-reset" | "guest-panic" | "subsystem-reset") => Shutdown::Reset,
                    _ => Shutdown::Ordered,
                });
            }
            "STOP" if self.stop_wanted.load(Ordering::SeqCst) => {}
            "STOP" => self.seen.stopped = true,
            _ => {}
        }
    }
}

/// The next message; nothing at the end of the connection.
async fn next(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Message>, QmpError> {
    let mut line = Vec::new();
    match read_line(reader, &mut line).await {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        // A process that is killed closes its sockets with unread bytes in them.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(QmpError::Connection(error)),
    }
    let text = String::from_utf8_lossy(&line);
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|_| QmpError::Garbled { line: shown(&text) })
}

async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<usize> {
    loop {
        let bytes = reader.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(line.len());
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(bytes.len(), |end| end + 1);
        line.extend_from_slice(&bytes[..count]);
        reader.consume(count);
        if end.is_some() {
            return Ok(line.len());
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line is too long",
            ));
        }
    }
}

fn shown(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> Message {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn the_reason_of_a_shutdown_is_understood() {
        for (reason, expected) in [
            ("guest-shutdown", Shutdown::Ordered),
            ("host-qmp-quit", Shutdown::Ordered),
            ("host-signal", Shutdown::Ordered),
            ("guest-reset", Shutdown::Reset),
            ("guest-panic", Shutdown::Reset),
        ] {
            let mut follower = Follower::default();
            let line = format!(
                r#"{{"timestamp": {{"seconds": 1, "microseconds": 2}}, "event": "SHUTDOWN", "data": {{"guest": true, "reason": "{reason}"}}}}"#
            );
            follower.note(&message(&line));
            assert_eq!(
                follower.seen,
                Seen {
                    shutdown: Some(expected),
                    stopped: false
                }
            );
        }
        let mut follower = Follower::default();
        follower.stop_wanted.store(true, Ordering::SeqCst);
        follower.note(&message(r#"{"event": "STOP"}"#));
        assert!(!follower.seen.stopped, "it was told to");
        follower.stop_wanted.store(false, Ordering::SeqCst);
        follower.note(&message(r#"{"event": "STOP"}"#));
        assert!(follower.seen.stopped);
    }

    #[test]
    fn answers_are_told_from_events() {
        let reply = message(r#"{"return": {}, "id": 3}"#);
        assert_eq!(reply.id, Some(3));
        assert!(answer(reply.result, reply.error).unwrap().is_ok());
        let reply =
            message(r#"{"id": 4, "error": {"class": "GenericError", "desc": "No\u0007 way"}}"#);
        assert_eq!(
            answer(reply.result, reply.error).unwrap().unwrap_err(),
            "No way"
        );
        let event = message(r#"{"event": "RESUME", "timestamp": {}}"#);
        assert!(answer(event.result, event.error).is_none());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_given_up() {
        let endless = vec![b'x'; MAX_LINE_BYTES + 2];
        let mut reader = BufReader::new(endless.as_slice());
        assert!(matches!(
            next(&mut reader).await,
            Err(QmpError::Connection(_))
        ));
        let mut reader = BufReader::new(b"SSH-2.0\x1b\n".as_slice());
        assert!(
            matches!(next(&mut reader).await, Err(QmpError::Garbled { line }) if line == "SSH-2.0")
        );
        assert!(
            next(&mut BufReader::new(b"".as_slice()))
                .await
                .unwrap()
                .is_none()
        );
    }
}
