//! Routes that stream: the serial log, and the console as a WebSocket. Bytes are passed as the guest wrote them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::body::{NamePath, QueryOf};
use super::problem::HttpError;
use crate::console::{Chunk, Console, InputError, Watch};
use crate::service::{ErrorKind, Service, ServiceError};

/// The largest frame that a console client may send, in bytes: a paste, not a file.
const MAX_INPUT_BYTES: usize = 16 * 1024;

/// What a watcher reads where it was too slow.
const LAGGED: &[u8] = b"\r\n[some output was skipped]\r\n";

/// Query of the log route.
#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    /// Keep the answer open for what comes.
    #[serde(default)]
    follow: bool,
    /// Only the last so many lines.
    tail: Option<usize>,
}

pub(super) async fn logs(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<LogQuery>,
) -> Result<Response, HttpError> {
    let console = service.console(&name)?;
    let watch = console.follow(query.tail).await.map_err(|error| {
        ServiceError::new(
            ErrorKind::Internal,
            format!("The log of `{name}` cannot be read"),
        )
        .caused(error)
    })?;
    let body = if query.follow {
        Body::from_stream(following(watch))
    } else {
        Body::from(watch.before)
    };
    Ok((
        [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        body,
    )
        .into_response())
}

fn following(watch: Watch) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let before = (!watch.before.is_empty()).then(|| Bytes::from(watch.before));
    stream::unfold((before, watch.after), async |(before, mut after)| {
        let bytes = match before {
            Some(bytes) => bytes,
            None => next_output(&mut after).await?,
        };
        Some((Ok(bytes), (None, after)))
    })
}

/// The next output, or nothing once the VM is deleted.
async fn next_output(after: &mut Receiver<Chunk>) -> Option<Bytes> {
    match after.recv().await {
        Ok(chunk) => Some(Bytes::copy_from_slice(&chunk)),
        Err(RecvError::Lagged(_)) => Some(Bytes::from_static(LAGGED)),
        Err(RecvError::Closed) => None,
    }
}

pub(super) async fn console(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    upgrade: WebSocketUpgrade,
) -> Result<Response, HttpError> {
    let console = service.running_console(&name)?;
    Ok(upgrade
        .max_message_size(MAX_INPUT_BYTES)
        .on_upgrade(async move |socket| serve_console(socket, console).await))
}

async fn serve_console(mut socket: WebSocket, console: Arc<Console>) {
    let Watch { before, mut after } = console.watch().await;
    if !before.is_empty() && socket.send(Message::Binary(before.into())).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            output = next_output(&mut after) => {
                let Some(bytes) = output else { break };
                if socket.send(Message::Binary(bytes)).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => {
                let input = match message {
                    Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                    Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                if let Err(InputError::NotRunning) = console.input(input) {
                    break;
                }
            }
        }
    }
    let reason = CloseFrame {
        code: close_code::AWAY,
        reason: "the VM is not running".into(),
    };
    // The client may be gone already: then there is nobody to tell.
    drop(socket.send(Message::Close(Some(reason))).await);
}
