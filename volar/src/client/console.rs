//! A VM's serial console over a WebSocket, on the same transport as every other call. Knows no terminal: see `crate::console`.

use std::fmt;

use common::api::API_KEY_HEADER;
use common::name::Name;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT, Client, ClientError, Endpoint, refused};

/// The largest message that is taken from the daemon: it sends what the guest wrote since the last, and 16 KiB at first.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// A byte stream to the daemon.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

type Socket = WebSocketStream<Box<dyn Transport>>;

/// An open console, in its two directions.
#[derive(Debug)]
pub struct Console {
    /// Towards the guest.
    pub input: ConsoleInput,
    /// From the guest.
    pub output: ConsoleOutput,
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

    /// Says goodbye. The VM goes on.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        match self.0.close().await {
            Ok(()) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed) => Ok(()),
            Err(error) => Err(web_socket(error)),
        }
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

fn web_socket(error: WsError) -> ClientError {
    ClientError::WebSocket(Box::new(error))
}

impl Client {
    /// Opens the serial console of a VM.
    pub async fn console(&self, name: &Name) -> Result<Console, ClientError> {
        let path = format!("/ws/v1/vms/{name}/console");
        let call = format!("GET {path}");
        let request = self.upgrade_request(&path)?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| ClientError::Timeout {
                call: call.clone(),
                limit: CONNECT_TIMEOUT,
            })??;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let handshake = client_async_with_config(request, stream, Some(config));
        let (socket, _) = tokio::time::timeout(CALL_TIMEOUT, handshake)
            .await
            .map_err(|_| ClientError::Timeout {
                call: call.clone(),
                limit: CALL_TIMEOUT,
            })?
            .map_err(|error| match error {
                WsError::Http(response) => {
                    let body = response.body().as_deref().unwrap_or_default();
                    refused(response.status().as_u16(), body, &call)
                }
                other => ClientError::Cut {
                    call: call.clone(),
                    source: Box::new(other),
                },
            })?;
        let (input, output) = socket.split();
        Ok(Console {
            input: ConsoleInput(input),
            output: ConsoleOutput(output),
        })
    }

    fn upgrade_request(&self, path: &str) -> Result<Request<()>, ClientError> {
        let url = format!(
            "ws://{}{}{path}",
            self.endpoint.authority(),
            self.endpoint.prefix()
        );
        let mut request = url.into_client_request().map_err(web_socket)?;
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|error| web_socket(WsError::HttpFormat(error.into())))?;
            value.set_sensitive(true);
            request.headers_mut().insert(API_KEY_HEADER, value);
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Box<dyn Transport>, ClientError> {
        let denied = |error| ClientError::connect(&self.endpoint, error);
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(denied)?;
                Ok(Box::new(stream))
            }
            Endpoint::Tcp(url) => {
                let host = url.host_str().unwrap_or_default();
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port = url.port_or_known_default().unwrap_or(80);
                let stream = TcpStream::connect((host, port)).await.map_err(denied)?;
                // Single keys must not wait for each other.
                stream.set_nodelay(true).map_err(denied)?;
                Ok(Box::new(stream))
            }
        }
    }
}
