//! The serial console as a WebSocket. Bytes are passed as the guest wrote them.

use std::str::FromStr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::response::Response;
use common::agent::session::TerminalSize;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::{NamePath, QueryOf, Upgrade};
use super::events::words;
use super::problem::HttpError;
use crate::console::{Access, BUSY, InputError, SEND_LIMIT, Seen, Watch};
use crate::service::Service;

/// The largest frame that a console client may send, in bytes: a paste, not a file.
const MAX_INPUT_BYTES: usize = 16 * 1024;

/// `write` of the query.
struct Write(Access);

impl FromStr for Write {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "true" => Ok(Self(Access::Type)),
            "false" => Ok(Self(Access::Watch)),
            "force" => Ok(Self(Access::Force)),
            _ => Err("expected `true`, `false` or `force`"),
        }
    }
}

/// A text message that is no input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Control {
    #[expect(dead_code, reason = "only checked: a serial line has no size to set")]
    resize: TerminalSize,
}

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::default().routes(routes!(socket))
}

/// A VM's serial console.
///
/// Binary messages are bytes of the line, both ways; it begins with some screens of what was there before. Text messages to the daemon are
/// keys as well, but for `{"resize":{"cols":80,"rows":24}}`, which is taken and does nothing: a serial line has no size (`stty` sets
/// it in the guest). Many watch; the first that types has the keyboard until it leaves or has not typed for 30 s.
#[utoipa::path(
    get,
    path = "/ws/v1/vms/{name}/console",
    tag = "vms",
    operation_id = "open_vm_console",
    params(
        NamePath,
        ("write" = Option<String>, Query, description = "`true`: types when nobody else does (what happens without it); `false`: only watches; `force`: takes the keyboard"),
    ),
    responses(
        (status = 101, description = "A WebSocket"),
        (status = 404, description = "`vm-not-found`: no VM has this name"),
        (status = 426, description = "`invalid-request`: the connection cannot be upgraded"),
        (status = 409, description = "`wrong-phase`: the VM does not run"),
        (status = 503, description = "`unavailable`: there are too many watchers"),
    )
)]
async fn socket(
    State(service): State<Arc<Service>>,
    NamePath(name): NamePath,
    QueryOf(query): QueryOf<Vec<(String, String)>>,
    upgrade: Upgrade,
) -> Result<Response, HttpError> {
    let access = words(&query, "write")?
        .pop()
        .map_or_else(Access::default, |Write(access)| access);
    let watch = service.watch_console(&name, access).await?;
    Ok(upgrade.serve(MAX_INPUT_BYTES, async move |socket| {
        serve(socket, watch).await;
    }))
}

async fn serve(mut socket: WebSocket, mut watch: Watch) {
    let before = std::mem::take(&mut watch.before);
    if !before.is_empty() && !send(&mut socket, before.into()).await {
        return;
    }
    let mut was_told = false;
    let (code, reason) = loop {
        tokio::select! {
            seen = watch.next() => match seen {
                Seen::Output(output) => {
                    if !send(&mut socket, output.into()).await {
                        return;
                    }
                }
                Seen::TooSlow => break (close_code::AGAIN, "too slow"),
                Seen::Gone => break (close_code::AWAY, "the VM is not running"),
            },
            message = socket.recv() => {
                let keys = match message {
                    Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                    Some(Ok(Message::Text(text))) if is_control(&text) => continue,
                    Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                };
                match watch.input(keys) {
                    Ok(()) => was_told = false,
                    Err(InputError::NotRunning) => break (close_code::AWAY, "the VM is not running"),
                    Err(InputError::Busy) if !was_told => {
                        was_told = true;
                        if !send(&mut socket, Bytes::from_static(BUSY)).await {
                            return;
                        }
                    }
                    Err(InputError::Busy | InputError::Full) => {}
                }
            }
        }
    };
    let reason = Utf8Bytes::from_static(reason);
    // The client may be gone already: then there is nobody to tell.
    drop(
        socket
            .send(Message::Close(Some(CloseFrame { code, reason })))
            .await,
    );
}

async fn send(socket: &mut WebSocket, bytes: Bytes) -> bool {
    let sent = tokio::time::timeout(SEND_LIMIT, socket.send(Message::Binary(bytes))).await;
    matches!(sent, Ok(Ok(())))
}

fn is_control(text: &str) -> bool {
    serde_json::from_str::<Control>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use common::name::Name;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::testing::Client;
    use super::*;
    use crate::console::Consoles;
    use crate::machine::ports::{ConsoleSink as _, VmPaths};

    #[tokio::test]
    async fn a_web_socket_shows_and_types() {
        let dir = tempfile::tempdir().unwrap();
        let web: Name = "web".parse().unwrap();
        let paths = VmPaths {
            state_dir: dir.path().to_path_buf(),
            run_dir: dir.path().to_path_buf(),
        };
        let consoles = Consoles::default();
        let (mut guest, host) = tokio::io::duplex(64);
        consoles.attach(&web, &paths, Box::new(host));
        let console = consoles.open(&web, dir.path());
        let serving = Arc::clone(&console);
        let mut client = Client::of(move |socket| async move {
            let watch = serving.watch(Access::Type).await.unwrap();
            serve(socket, watch).await;
        })
        .await;
        client.send(1, br#"{"resize":{"cols":80,"rows":24}}"#).await;
        client.send(1, b"l").await;
        client.send(2, b"s").await;
        let mut typed = [0; 2];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"ls", "the size is no key");
        guest.write_all(b"file").await.unwrap();
        assert_eq!(client.next().await, (2, b"file".to_vec()));
        let forced = console.watch(Access::Force).await.unwrap();
        client.send(2, b"x").await;
        assert_eq!(client.next().await, (2, BUSY.to_vec()));
        drop(forced);
        consoles.detach(&web);
        client.send(2, b"x").await;
        let (opcode, payload) = client.next().await;
        assert_eq!(opcode, 8);
        assert_eq!(&payload[2..], b"the VM is not running");
    }

    #[test]
    fn only_a_resize_is_no_input() {
        assert!(is_control(r#"{"resize":{"cols":80,"rows":24}}"#));
        for keys in [
            "ls\n",
            "{}",
            r#"{"resize":{}}"#,
            r#"{"resize":{"cols":80,"rows":24},"x":1}"#,
        ] {
            assert!(!is_control(keys), "{keys}");
        }
    }

    #[test]
    fn access_is_said_in_the_query() {
        for (text, expected) in [
            ("true", Some(Access::Type)),
            ("false", Some(Access::Watch)),
            ("force", Some(Access::Force)),
            ("yes", None),
        ] {
            let access = text.parse::<Write>().ok().map(|Write(access)| access);
            assert_eq!(access, expected, "{text}");
        }
    }
}
