//! A command that the host runs in a guest: the messages of one session, the same between volantd and kestrel and between a client and
//! volantd.
//!
//! A message is a [`Channel`] and its payload. On a WebSocket it is one binary message, the channel's byte first; on the agent's connection,
//! after `101 Switching Protocols` to [`PROTOCOL`], a length of four bytes in network order stands between the two. The host's first message
//! is [`Channel::Start`]; the guest's last one is [`Channel::Exit`] or [`Channel::Failed`].
//!
//! A host that closes its side is gone: the command's group gets SIGHUP, and SIGKILL five seconds later. One that breaks the protocol is
//! treated so too, and told by [`Channel::Failed`]. A connection that ends without a last message is the end of the guest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The protocol that `POST` to [`EXEC_PATH`](super::EXEC_PATH) is upgraded to.
pub const PROTOCOL: &str = "volant-exec";

/// The most bytes of one payload. Longer input is sent in pieces.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Bytes before a payload on the agent's connection.
pub const HEADER_BYTES: usize = 5;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Host: [`Start`] as JSON.
    Start,
    /// Host: bytes for the command's standard input.
    Stdin,
    /// Host: there is no more input. No payload. At a terminal it is the character EOT.
    StdinEnd,
    /// Host: [`TerminalSize`] as JSON.
    Resize,
    /// Host: [`SendSignal`] as JSON, for the command's process group.
    Signal,
    /// Guest: what the command wrote to its standard output, or to its terminal. An empty one is a sign of life.
    Stdout,
    /// Guest: what it wrote to its standard error.
    Stderr,
    /// Guest: [`Exit`] as JSON. All output of the command came before; that of processes that it left is not waited for.
    Exit,
    /// Guest: a [`Problem`](crate::api::Problem) as JSON: the command did not run.
    Failed,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Stdin,
        Self::StdinEnd,
        Self::Resize,
        Self::Signal,
        Self::Stdout,
        Self::Stderr,
        Self::Exit,
        Self::Failed,
    ];

    /// Its byte: 0 to 15 come from the host, 16 and above from the guest.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Start => 0,
            Self::Stdin => 1,
            Self::StdinEnd => 2,
            Self::Resize => 3,
            Self::Signal => 4,
            Self::Stdout => 16,
            Self::Stderr => 17,
            Self::Exit => 18,
            Self::Failed => 19,
        }
    }

    /// The channel of a byte.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.byte() == byte)
    }

    /// Whether the host sends it.
    pub const fn is_from_host(self) -> bool {
        self.byte() < 16
    }
}

/// The bytes before a payload of `length` on the agent's connection. `None` if the payload is too long.
pub fn header(channel: Channel, length: usize) -> Option<[u8; HEADER_BYTES]> {
    let length = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_PAYLOAD_BYTES)?;
    let [a, b, c, d] = length.to_be_bytes();
    Some([channel.byte(), a, b, c, d])
}

/// Why the bytes before a payload are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// No such channel.
    #[error("A message has the unknown channel {0}")]
    Channel(u8),
    /// Too long.
    #[error("A message of {0} bytes is longer than {MAX_PAYLOAD_BYTES}")]
    Length(u32),
}

/// The channel and the payload's length.
///
/// # Errors
/// [`InvalidHeader`].
pub fn parse_header(bytes: [u8; HEADER_BYTES]) -> Result<(Channel, usize), InvalidHeader> {
    let [channel, a, b, c, d] = bytes;
    let channel = Channel::of(channel).ok_or(InvalidHeader::Channel(channel))?;
    let length = u32::from_be_bytes([a, b, c, d]);
    let bytes = usize::try_from(length)
        .ok()
        .filter(|bytes| *bytes <= MAX_PAYLOAD_BYTES)
        .ok_or(InvalidHeader::Length(length))?;
    Ok((channel, bytes))
}

/// What is to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Program and arguments. Without any, the image's shell: /bin/sh, /bin/bash or /bin/ash, as far as it has one.
    #[serde(default)]
    pub command: Vec<String>,
    /// Added to the workload's environment. At a terminal `TERM` is `xterm` unless it is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it runs; the workload's directory if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who runs it, as `user[:group]`; the workload's user if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Gives it a terminal of this size: its standard error is its standard output then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TerminalSize>,
    /// Whether it has an input at all; else it reads an end.
    #[serde(default)]
    pub stdin: bool,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A signal for the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// Its Linux number, 1 to 64.
    pub signal: i32,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended it, as shells say.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back() {
        for channel in Channel::ALL {
            for length in [0, 1, 300, MAX_PAYLOAD_BYTES] {
                let bytes = header(channel, length).unwrap();
                assert_eq!(parse_header(bytes), Ok((channel, length)));
            }
            assert_eq!(header(channel, MAX_PAYLOAD_BYTES + 1), None);
        }
    }

    #[test]
    fn foreign_headers_are_refused() {
        assert_eq!(
            parse_header([9, 0, 0, 0, 0]),
            Err(InvalidHeader::Channel(9))
        );
        assert_eq!(
            parse_header([1, 1, 0, 0, 0]),
            Err(InvalidHeader::Length(1 << 24))
        );
    }
}
