//! A VM's serial console over a WebSocket. Knows no terminal: see `crate::console`.

use std::fmt;

use common::agent::session::TerminalSize;
use common::name::Name;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::socket::{Socket, web_socket};
use super::{Client, ClientError};

/// An open console, in its two directions.
#[derive(Debug)]
pub struct Console {
    /// Towards the guest.
    pub input: ConsoleInput,
    /// From the guest.
    pub output: ConsoleOutput,
}

/// Who may type: a console has many watchers and one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Whoever types first.
    First,
    /// This one when nobody else does, as [`First`](Self::First); said to the daemon.
    Now,
    /// This one, whoever did so far.
    Force,
    /// Not this one.
    Never,
}

impl Writing {
    const fn query(self) -> &'static str {
        match self {
            Self::First => "",
            Self::Now => "?write=true",
            Self::Force => "?write=force",
            Self::Never => "?write=false",
        }
    }
}

/// What volantd reads in a text message.
#[derive(Serialize)]
struct Resize {
    resize: TerminalSize,
}

/// The direction towards the guest.
pub struct ConsoleInput(SplitSink<Socket, Message>);

/// The direction from the guest.
pub struct ConsoleOutput(SplitStream<Socket>);

impl fmt::Debug for ConsoleInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleInput")
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleOutput")
    }
}

impl ConsoleInput {
    /// Sends keys to the guest.
    pub async fn send(&mut self, keys: Vec<u8>) -> Result<(), ClientError> {
        self.0.send(Message::binary(keys)).await.map_err(web_socket)
    }

    /// Tells how large the terminal is.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        let text = serde_json::to_string(&Resize { resize: size }).unwrap_or_default();
        self.0.send(Message::text(text)).await.map_err(web_socket)
    }

    /// Says goodbye. The VM goes on.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        close(&mut self.0).await
    }
}

/// Closes a WebSocket; one that is closed already is fine.
pub(super) async fn close(sink: &mut SplitSink<Socket, Message>) -> Result<(), ClientError> {
    match sink.close().await {
        Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Ok(()),
        Err(error) => Err(web_socket(error)),
    }
}

impl ConsoleOutput {
    /// The next bytes that the guest wrote; nothing when the console is gone.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes.to_vec())),
                Some(Ok(Message::Text(text))) => return Ok(Some(text.as_bytes().to_vec())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(WsError::ConnectionClosed)) | None => {
                    return Ok(None);
                }
                Some(Err(error)) => return Err(web_socket(error)),
            }
        }
    }
}

impl Client {
    /// Opens the serial console of a VM.
    pub async fn console(&self, name: &Name, writing: Writing) -> Result<Console, ClientError> {
        let path = format!("/ws/v1/vms/{name}/console{}", writing.query());
        let (input, output) = self.web_socket(&path).await?.split();
        Ok(Console {
            input: ConsoleInput(input),
            output: ConsoleOutput(output),
        })
    }
}
