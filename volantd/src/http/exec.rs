//! `GET /ws/v1/vms/{name}/exec`: a WebSocket on one side, the agent's session on the other. Looks at the form of messages only: what they
//! mean is [`common::agent::session`].
//!
//! Each side waits for the other: a client that reads slowly makes the command wait, and a command that does not read makes the client
//! wait. Neither holds the other direction up.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseCode, CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
use common::agent::session::{Channel, MAX_PAYLOAD_BYTES};
use common::api::Problem;
use common::error_chain::Chain;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, Upgrade};
use super::problem::HttpError;
use crate::agent::{read_message, write_message};
use crate::service::{Service, Session};

/// The largest message of a client: a channel's byte and a payload.
const MAX_MESSAGE_BYTES: usize = 1 + MAX_PAYLOAD_BYTES;

/// The largest message that is read at all. One between the two is refused in words, a larger one breaks the connection.
const MAX_READ_BYTES: usize = 2 * MAX_MESSAGE_BYTES;

/// How long the last messages to a client may take: who does not read them does not want them.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(exec))
}

/// Runs a command in a VM (WebSocket)
///
/// Each binary message is a byte that names its channel and a payload of at most 65536 bytes. The client sends 0 first (a `Start` object:
/// `command`, `env`, `workdir`, `user`, `tty`, `stdin`), then 1 (input), 2 (end of input), 3 (`{"cols","rows"}`) and 4 (`{"signal"}`). The
/// guest sends 16 (output), 17 (error output) and at last 18 (`{"code","signal"}`) or 19 (a problem: the command did not run, or its
/// session broke). A close follows: 1000 after the guest's last word, 1011 if the guest broke off, 1003, 1008 or 1009 if the client broke
/// the protocol. A client that leaves ends the command: SIGHUP, and SIGKILL after five seconds.
#[utoipa::path(
    get,
    path = "/ws/v1/vms/{name}/exec",
    tag = "vms",
    operation_id = "exec_in_vm",
    params(NamePath),
    responses(
        (status = 101, description = "The session has begun"),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 409, description = "`wrong-phase`: the VM does not run"),
        (status = 426, description = "`invalid-request`: the connection cannot be upgraded"),
        (status = 502, description = "`guest-unreachable`: the guest's agent does not answer as it should"),
        (status = 503, description = "`unavailable`: too many commands run in this VM already"),
        (status = 504, description = "`guest-timeout`: the guest took too long"),
    )
)]
async fn exec(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let session = service.open_session(&name).await?;
    Ok(upgrade.serve(MAX_READ_BYTES, async move |socket| {
        serve(socket, session).await;
    }))
}

/// Why a session ended.
enum End {
    /// The guest had its last word, and the client has it.
    Finished,
    /// The client is gone.
    ClientGone,
    /// The client broke the protocol.
    ClientWrong(CloseCode, &'static str),
    /// The guest broke off.
    GuestGone(String),
}

async fn serve(socket: WebSocket, session: Session) {
    let Session { connection, hold } = session;
    let (mut sink, mut source) = socket.split();
    let (mut from, mut to) = tokio::io::split(connection);
    let talk = async {
        // In any order: a command that never stops writing must not keep from it what the client types, nor the other way round.
        tokio::select! {
            end = to_client(&mut from, &mut sink) => end,
            end = to_guest(&mut source, &mut to) => end,
        }
    };
    let end = tokio::select! {
        biased;
        // First: what the guest said before its end is still told.
        end = talk => end,
        () = hold.gone() => End::GuestGone("The VM has stopped".to_owned()),
    };
    // The guest learns of the end by that of its connection, before anybody waits for the client.
    drop((from, to, hold));
    // A client that has left, or does not read, has nobody to tell.
    drop(timeout(LAST_WORD_LIMIT, farewell(&mut sink, end)).await);
}

/// Passes on what the guest says, up to its last word.
async fn to_client(
    from: &mut (impl AsyncRead + Unpin),
    sink: &mut SplitSink<WebSocket, Message>,
) -> End {
    loop {
        let (channel, message) = match read_message(from).await {
            Ok(read) => read,
            Err(error) => return End::GuestGone(Chain(&error).to_string()),
        };
        if sink.send(Message::Binary(message.into())).await.is_err() {
            return End::ClientGone;
        }
        if matches!(channel, Channel::Exit | Channel::Failed) {
            return End::Finished;
        }
    }
}

/// Passes on what the client says.
async fn to_guest(source: &mut SplitStream<WebSocket>, to: &mut (impl AsyncWrite + Unpin)) -> End {
    let mut guest_listens = true;
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(_) => {
                return End::ClientWrong(
                    close_code::UNSUPPORTED,
                    "A session has binary messages only",
                );
            }
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => break,
        };
        if bytes.len() > MAX_MESSAGE_BYTES {
            let reason = "A message is larger than 65536 bytes and its channel";
            return End::ClientWrong(close_code::SIZE, reason);
        }
        let channel = bytes.first().and_then(|byte| Channel::of(*byte));
        if !channel.is_some_and(Channel::is_from_host) {
            let reason = "A message has no channel that a client may send";
            return End::ClientWrong(close_code::POLICY, reason);
        }
        // A command that has ended takes no input, but the guest's last word may still be on its way.
        if guest_listens && write_message(to, &bytes).await.is_err() {
            guest_listens = false;
        }
    }
    End::ClientGone
}

/// Tells the client how the session ended.
async fn farewell(sink: &mut SplitSink<WebSocket, Message>, end: End) -> Result<(), axum::Error> {
    let (code, reason, problem) = match end {
        End::ClientGone => return sink.close().await,
        End::Finished => (close_code::NORMAL, "", None),
        End::ClientWrong(code, reason) => {
            let problem = problem(StatusCode::BAD_REQUEST, "invalid-request", reason);
            (code, reason, Some(problem))
        }
        End::GuestGone(why) => {
            let problem = problem(StatusCode::BAD_GATEWAY, "guest-unreachable", &why);
            (close_code::ERROR, "the guest broke off", Some(problem))
        }
    };
    if let Some(problem) = problem {
        let mut message = vec![Channel::Failed.byte()];
        // A structure of strings and numbers always has a JSON form.
        message.extend(serde_json::to_vec(&problem).unwrap_or_default());
        sink.send(Message::Binary(message.into())).await?;
    }
    let close = CloseFrame {
        code,
        reason: reason.into(),
    };
    sink.send(Message::Close(Some(close))).await
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Problem {
    let HttpError(problem) = HttpError::plain(status, code, detail);
    *problem
}
