//! A command in a guest, over a WebSocket: binary messages of a channel's byte and its payload. Knows no terminal: see `crate::exec`.

use std::fmt;

use common::agent::session::{Channel, Exit, MAX_PAYLOAD_BYTES, SendSignal, Start, TerminalSize};
use common::api::Problem;
use common::name::Name;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::console::close;
use super::socket::{Socket, web_socket};
use super::{Client, ClientError};

/// A command that runs, in its two directions.
#[derive(Debug)]
pub struct ExecSession {
    /// Towards the command.
    pub input: ExecInput,
    /// From the command.
    pub output: ExecOutput,
}

/// The direction towards the command.
pub struct ExecInput(SplitSink<Socket, Message>);

/// The direction from the command.
pub struct ExecOutput {
    stream: SplitStream<Socket>,
    call: String,
}

impl fmt::Debug for ExecInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecInput")
    }
}

impl fmt::Debug for ExecOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecOutput")
    }
}

/// What comes from the guest.
#[derive(Debug)]
pub enum FromGuest {
    /// Of its standard output or its terminal.
    Stdout(Vec<u8>),
    /// Of its standard error.
    Stderr(Vec<u8>),
    /// It ended.
    Exit(Exit),
}

impl Client {
    /// Runs a command in a guest.
    pub async fn exec(&self, name: &Name, start: &Start) -> Result<ExecSession, ClientError> {
        let path = format!("/ws/v1/vms/{name}/exec");
        let (input, stream) = self.web_socket(&path).await?.split();
        let mut input = ExecInput(input);
        input.json(Channel::Start, start).await?;
        let call = format!("GET {path}");
        Ok(ExecSession {
            input,
            output: ExecOutput { stream, call },
        })
    }
}

impl ExecInput {
    /// Sends input, in pieces that the protocol allows.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for piece in bytes.chunks(MAX_PAYLOAD_BYTES) {
            self.send(Channel::Stdin, piece).await?;
        }
        Ok(())
    }

    /// There is no more input.
    pub async fn end(&mut self) -> Result<(), ClientError> {
        self.send(Channel::StdinEnd, &[]).await
    }

    /// The terminal has another size.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        self.json(Channel::Resize, &size).await
    }

    /// A signal for the command.
    pub async fn signal(&mut self, signal: i32) -> Result<(), ClientError> {
        self.json(Channel::Signal, &SendSignal { signal }).await
    }

    /// Says goodbye; what runs without us is the guest's to end.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        close(&mut self.0).await
    }

    async fn json(&mut self, channel: Channel, value: &impl Serialize) -> Result<(), ClientError> {
        let json = serde_json::to_vec(value).unwrap_or_default();
        self.send(channel, &json).await
    }

    async fn send(&mut self, channel: Channel, payload: &[u8]) -> Result<(), ClientError> {
        let message = [&[channel.byte()], payload].concat();
        self.0
            .send(Message::binary(message))
            .await
            .map_err(web_socket)
    }
}

impl ExecOutput {
    /// What comes next; nothing if the session ended without the command's end.
    pub async fn next(&mut self) -> Result<Option<FromGuest>, ClientError> {
        loop {
            let bytes = match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Close(_)) | Err(WsError::ConnectionClosed)) | None => {
                    return Ok(None);
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(web_socket(error)),
            };
            let Some((channel, payload)) = bytes.split_first() else {
                continue;
            };
            match Channel::of(*channel) {
                Some(Channel::Stdout) => return Ok(Some(FromGuest::Stdout(payload.to_vec()))),
                Some(Channel::Stderr) => return Ok(Some(FromGuest::Stderr(payload.to_vec()))),
                Some(Channel::Exit) => {
                    let exit = serde_json::from_slice(payload).map_err(|error| self.odd(error))?;
                    return Ok(Some(FromGuest::Exit(exit)));
                }
                Some(Channel::Failed) => {
                    let problem: Problem =
                        serde_json::from_slice(payload).map_err(|error| self.odd(error))?;
                    return Err(ClientError::NotStarted(Box::new(problem)));
                }
                // Of a later version, or our own kind: nothing that we could do.
                Some(_) | None => {}
            }
        }
    }

    fn odd(&self, source: serde_json::Error) -> ClientError {
        let call = self.call.clone();
        ClientError::Decode { call, source }
    }
}
