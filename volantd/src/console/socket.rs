//! A console as a unix socket in the VM's run directory: bytes both ways, for root and the group `volant`.
//!
//! A client gets the scrollback and then what comes. It types as the WebSocket's clients do: when nobody else does. Its end of input is
//! its leaving.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::{Access, Console, InputError, SEND_LIMIT, Seen, Watch};
use crate::token::share_with_group;

/// The socket's name in a VM's run directory.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// How long a socket that takes nobody in, for lack of file descriptors, is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is read of a client at once, in bytes.
const INPUT_BYTES: usize = 4096;

/// What a client reads whose keys are not taken.
pub const BUSY: &[u8] = b"\r\n[somebody else is typing]\r\n";

/// Listens in `run_dir`. A socket that an earlier daemon left is replaced.
pub(super) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let path = run_dir.join(CONSOLE_SOCKET);
    match fs_err::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    share_with_group(&path, 0o660)?;
    Ok(listener)
}

/// Takes clients in, for as long as it is not dropped. Clients stay.
pub(super) async fn serve(listener: UnixListener, console: Arc<Console>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // More than there may be are let go at once.
                if let Ok(watch) = console.watch(Access::Type).await {
                    crate::task::spawn("console-socket", client(stream, watch));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "console socket takes nobody in");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn client(mut stream: UnixStream, mut watch: Watch) {
    let before = std::mem::take(&mut watch.before);
    if !send(&mut stream, &before).await {
        return;
    }
    let mut typed = vec![0; INPUT_BYTES];
    let mut was_told = false;
    loop {
        tokio::select! {
            seen = watch.next() => match seen {
                Seen::Output(output) => {
                    if !send(&mut stream, &output).await {
                        return;
                    }
                }
                Seen::TooSlow | Seen::Gone => return,
            },
            read = stream.read(&mut typed) => {
                let Ok(count @ 1..) = read else {
                    return;
                };
                let keys = typed.get(..count).unwrap_or_default().to_vec();
                match watch.input(keys) {
                    Ok(()) => was_told = false,
                    Err(InputError::NotRunning) => return,
                    Err(InputError::Busy) if !was_told => {
                        was_told = true;
                        if !send(&mut stream, BUSY).await {
                            return;
                        }
                    }
                    Err(InputError::Busy | InputError::Full) => {}
                }
            }
        }
    }
}

async fn send(stream: &mut UnixStream, bytes: &[u8]) -> bool {
    matches!(
        timeout(SEND_LIMIT, stream.write_all(bytes)).await,
        Ok(Ok(()))
    )
}
