//! Routes that stream: the serial log, and the console as a WebSocket. Bytes are passed as the guest wrote them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, QueryOf, Upgrade};
use super::problem::HttpError;
use crate::console::{Chunk, Console, InputError, Watch};
use crate::service::{ErrorKind, Service, ServiceError};

/// The largest frame that a console client may send, in bytes: a paste, not a file.
const MAX_INPUT_BYTES: usize = 16 * 1024;

/// What a watcher reads where it was too slow.
const LAGGED: &[u8] = b"\r\n[some output was skipped]\r\n";

/// Query of the log route.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Keep the answer open for what comes.
    #[serde(default)]
    follow: bool,
    /// Only the last so many lines.
    tail: Option<usize>,
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default()
        .routes(routes!(logs))
        .routes(routes!(console))
}

/// Shows what a VM wrote on its serial console
#[utoipa::path(
    get,
    path = "/api/v1/vms/{name}/logs",
    tag = "vms",
    operation_id = "get_vm_logs",
    params(NamePath, LogQuery),
    responses(
        (status = 200, description = "The bytes, as the guest wrote them", body = String, content_type = "text/plain"),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
    )
)]
async fn logs(
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

/// Connects to a VM's serial console (WebSocket)
#[utoipa::path(
    get,
    path = "/ws/v1/vms/{name}/console",
    tag = "vms",
    operation_id = "open_vm_console",
    params(NamePath),
    responses(
        (status = 101, description = "Binary messages carry what the guest writes; any message is typed"),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 409, description = "`wrong-phase`: its state does not allow this"),
        (status = 426, description = "`invalid-request`: the connection cannot be upgraded"),
    )
)]
async fn console(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let console = service.running_console(&name)?;
    Ok(upgrade.serve(MAX_INPUT_BYTES, async move |socket| {
        serve_console(socket, console).await;
    }))
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
