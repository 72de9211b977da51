//! One HTTP GET over a plain TCP connection, for asking the services in the guests. Not a client for anything else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long one request may take. Emulated guests are slow.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than any of the services under test answers, in bytes.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;

/// The status line's code and the body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks once.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    get_with(address, path, "")
}

/// Asks once, with further header lines that each end in CR LF.
pub(super) fn get_with(address: SocketAddr, path: &str, headers: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("No connection to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    )?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ANSWER_BYTES)
        .read_to_end(&mut bytes)
        .context("No whole answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("{address} answered no HTTP: {text:?}")
    };
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("No status in the answer")?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

/// Asks until the body holds `expected`, or the deadline passes.
pub(super) fn wait_for_body(
    address: SocketAddr,
    path: &str,
    expected: &str,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match get(address, path) {
            Ok(answer) if answer.status == 200 && answer.body.contains(expected) => return Ok(()),
            Ok(answer) => format!("{} {:?}", answer.status, answer.body),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!(
                "http://{address}{path} did not answer `{expected}` within {limit:?}; last: {last}"
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
