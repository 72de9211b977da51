//! Opens a connection into a guest, by its address or by its vsock. Says nothing on it but what the VMM's vsock asks for.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::agent::AGENT_PORT;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::AgentError;
use crate::machine::ports::GuestEndpoint;

/// The pause before a connection is tried once more beside the one that is under way. A guest whose network comes up in between has
/// missed the first packet, and the kernel would repeat it only after a second (RFC 6298).
const SECOND_TRY: Duration = Duration::from_millis(40);

/// How many connections are under way at most: after these the kernel's own repetitions have begun.
const MAX_KNOCKS: usize = 16;

/// The longest answer of the VMM to `CONNECT`, in bytes: `OK` and a port of at most ten digits.
const MAX_VSOCK_ANSWER_BYTES: usize = 32;

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to the agent: by vsock where there is one, where it always has [`AGENT_PORT`], else by the guest's address on `port`.
pub(super) async fn agent(
    guest: &GuestEndpoint,
    port: u16,
    limit: Duration,
) -> Result<Box<dyn Stream>, AgentError> {
    if let Some(path) = &guest.vsock {
        match timeout(limit, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return Ok(Box::new(vsock(stream, AGENT_PORT, limit).await?)),
            // The VMM's end is not there, so this VM has no vsock after all; its address works as well.
            Ok(Err(error)) => note_missing(path, &error),
            Err(_elapsed) => note_missing(path, &io::ErrorKind::TimedOut.into()),
        }
    }
    let address = SocketAddr::from((guest.ip, port));
    match tcp(address, limit).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(AgentError::Connect {
            endpoint: address.to_string(),
            source,
        }),
    }
}

fn note_missing(path: &Path, error: &io::Error) {
    tracing::debug!(vsock = %path.display(), %error, "no vsock, using the guest's address");
}

/// Asks the VMM for a connection to `port` in the guest (Cloud Hypervisor's docs/vsock.md): `CONNECT 8080`, answered by `OK 1073741824`.
async fn vsock(
    mut stream: UnixStream,
    port: u16,
    limit: Duration,
) -> Result<UnixStream, AgentError> {
    let asked = async {
        stream
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        loop {
            // One byte at a time: what follows the line is the agent's.
            match stream.read_u8().await? {
                b'\n' => break,
                byte => answer.push(byte),
            }
            if answer.len() > MAX_VSOCK_ANSWER_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the VMM's answer has no end",
                ));
            }
        }
        if answer.starts_with(b"OK ") {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the VMM did not answer with `OK`",
        ))
    };
    match timeout(limit, asked).await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(source)) => Err(AgentError::Vsock { source }),
        Err(_elapsed) => Err(AgentError::Vsock {
            source: io::ErrorKind::TimedOut.into(),
        }),
    }
}

/// Connects within `limit`. A silent guest is knocked at again every [`SECOND_TRY`]; a refusal is an answer and ends it.
pub(super) async fn tcp(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let mut knocks = FuturesUnordered::new();
    loop {
        if knocks.len() < MAX_KNOCKS {
            knocks.push(TcpStream::connect(address));
        }
        let next = (Instant::now() + SECOND_TRY).min(deadline);
        tokio::select! {
            // An empty set would be `None`; it holds at least the knock from above.
            Some(answer) = knocks.next() => {
                if let Ok(stream) = &answer {
                    // Requests are small, and nobody waits for more.
                    stream.set_nodelay(true)?;
                }
                return answer;
            }
            () = sleep_until(next) => {
                if next == deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
    }
}
