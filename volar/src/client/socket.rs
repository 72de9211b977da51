//! `WebSocket`s (RFC 6455) on the same transport as every other call: unix socket, TCP or TLS. Knows nothing of the messages.

use std::time::Duration;

use reqwest::header::{CONNECTION, HeaderMap, UPGRADE};
use reqwest::{Method, StatusCode, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{CALL_TIMEOUT, Client, ClientError, check_status};

/// The largest message that is taken from the daemon: it sends what the guest wrote since the last, and 16 KiB at first.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

pub(super) type Socket = WebSocketStream<Upgraded>;

pub(super) fn web_socket(error: WsError) -> ClientError {
    ClientError::WebSocket(Box::new(error))
}

impl Client {
    /// Opens a WebSocket at `path`.
    pub(super) async fn web_socket(&self, path: &str) -> Result<Socket, ClientError> {
        let call = format!("GET {}", path.split('?').next().unwrap_or_default());
        let timeout = |limit: Duration| ClientError::Timeout {
            call: call.clone(),
            limit,
        };
        tokio::time::timeout(CALL_TIMEOUT, self.handshake(path, &call))
            .await
            .map_err(|_| timeout(CALL_TIMEOUT))?
    }

    async fn handshake(&self, path: &str, call: &str) -> Result<Socket, ClientError> {
        let key = generate_key();
        let builder = self
            .request(Method::GET, path)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", &key);
        let response = self.send(builder, call, CALL_TIMEOUT).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = check_status(response, call).await?.status().as_u16();
            let call = call.to_owned();
            return Err(ClientError::Status { call, status });
        }
        if !is_accepted(response.headers(), &key) {
            let source = ProtocolError::SecWebSocketAcceptKeyMismatch;
            return Err(web_socket(source.into()));
        }
        let stream = response
            .upgrade()
            .await
            .map_err(|source| ClientError::call(&self.endpoint, call, CALL_TIMEOUT, source))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
    }
}

/// Whether the other side speaks WebSocket and answers this very request (RFC 6455 §4.2.2).
fn is_accepted(headers: &HeaderMap, key: &str) -> bool {
    let accept = headers.get("sec-websocket-accept");
    accept.is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes())
}
