//! One request to the daemon's API over TCP, whose answer is read as it comes: for streams, and for what volar does not do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::api::{API_KEY_HEADER, DEFAULT_API_LISTEN};
use fs_err as fs;

use super::daemon::Daemon;

/// How long the daemon may be silent. An emulated guest is slow.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);

/// The longest line of a head or an event.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// An answer whose head was read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: BufReader<TcpStream>,
}

/// Sends a GET with these header lines more, each ended by CR LF.
pub(super) fn get(daemon: &Daemon, path: &str, headers: &str) -> Result<Answer> {
    let api: SocketAddr = DEFAULT_API_LISTEN.parse()?;
    let token = fs::read_to_string(daemon.token_file())?;
    let mut stream = TcpStream::connect(api).context("The API is not there")?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    let token = token.trim();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {api}\r\n{API_KEY_HEADER}: {token}\r\n{headers}\r\n"
    )?;
    let mut body = BufReader::new(stream);
    let first = line(&mut body)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("GET {path} was answered `{first}`"))?;
    while !line(&mut body)?.is_empty() {}
    Ok(Answer { status, body })
}

/// The next line, without its end.
pub(super) fn line(body: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    body.take(MAX_LINE_BYTES)
        .read_line(&mut line)
        .context("The answer breaks off")?;
    ensure!(line.ends_with('\n'), "The answer ends with `{line}`");
    Ok(line.trim_end().to_owned())
}
