//! `/agent/files`: copies of files both ways. Which file is what, and the archives, are `files`; here are requests, answers and threads.

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use common::agent::stats::{FILE_STAT_HEADER, FileKind, FileStat};
use common::error_chain::Chain;
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::body::{AgentBody, empty, problem, streamed};
use super::{Agent, query};
use crate::files::{self, FileError};

/// Copies at a time. Each has a thread.
pub(crate) const MAX_COPIES: usize = 4;

/// The largest piece of an archive on its way, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How much of an archive is still taken once it has failed, in bytes: who is cut off while sending may not read why. A host that reads the
/// answer stops by itself.
const MAX_UNWANTED_BYTES: u64 = 1024 * 1024 * 1024;

const TAR: &str = "application/x-tar";

/// Answers a request for a file.
pub(super) async fn files(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<AgentBody> {
    let Ok(place) = Arc::clone(&agent.copies).try_acquire_owned() else {
        let detail = "Too many files of this guest are being copied already";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return problem(status, "too-many-copies", detail);
    };
    let query = request.uri().query().unwrap_or_default();
    let path = match files::path_of(query::value(query, "path").unwrap_or_default()) {
        Ok(path) => path,
        Err(error) => return refusal(&error),
    };
    let looked_at = path.clone();
    let found = blocking(move || files::stat(&looked_at)).await;
    let stat = match found {
        Ok(stat) => stat,
        Err(error) => return refusal(&error),
    };
    let mut response = match *request.method() {
        Method::GET => send(path, &stat, place),
        Method::PUT => receive(path, request.into_body(), place).await,
        _ => empty(StatusCode::OK),
    };
    if let Ok(value) = HeaderValue::try_from(header_text(&stat)) {
        response.headers_mut().insert(FILE_STAT_HEADER, value);
    }
    response
}

fn send(path: PathBuf, stat: &FileStat, place: OwnedSemaphorePermit) -> Response<AgentBody> {
    if stat.kind == FileKind::Other {
        return refusal(&FileError::NoContent { path });
    }
    let (sender, chunks) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let to = BufWriter::with_capacity(CHUNK_BYTES, Chunks(sender.clone()));
        if let Err(error) = files::pack(&path, to) {
            // The connection breaks with it; a host that is gone needs no telling.
            drop(sender.blocking_send(Err(error)));
        }
        drop(place);
    });
    streamed(TAR, chunks, None)
}

async fn receive(
    path: PathBuf,
    body: Incoming,
    place: OwnedSemaphorePermit,
) -> Response<AgentBody> {
    let body = BodyDataStream::new(body.map_err(io::Error::other));
    let mut from = SyncIoBridge::new(StreamReader::new(body));
    let (tell, told) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let unpacked =
            files::directory(&path).and_then(|directory| files::unpack(&directory, &mut from));
        let failed = unpacked.is_err();
        // A host that is gone needs no telling.
        drop(tell.send(unpacked));
        if failed {
            // The answer is on its way. Who does not read it while sending, sends on.
            drop(io::copy(
                &mut from.take(MAX_UNWANTED_BYTES),
                &mut io::sink(),
            ));
        }
        drop(place);
    });
    match told.await {
        Ok(Ok(())) => empty(StatusCode::NO_CONTENT),
        Ok(Err(error)) => refusal(&error),
        // A thread that panics ends the agent, and nothing else ends one.
        Err(_) => std::future::pending().await,
    }
}

/// Does what may wait for a disk on another thread.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done,
        // A thread that panics ends the agent, and nothing else ends one.
        Err(_) => std::future::pending().await,
    }
}

/// Pieces for the body of an answer, each when there is room for it.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = bytes.get(..CHUNK_BYTES).unwrap_or(bytes);
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(chunk)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refusal(error: &FileError) -> Response<AgentBody> {
    let (status, code) = match error {
        FileError::Path => (StatusCode::BAD_REQUEST, "invalid-request"),
        FileError::Missing { .. } => (StatusCode::NOT_FOUND, "not-found"),
        FileError::NotDirectory { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not-a-directory"),
        FileError::NoContent { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "not-copyable"),
        FileError::Archive(_) | FileError::Member { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid-archive")
        }
        FileError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk-full"),
        FileError::Look { .. } | FileError::Unpack { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "copy-failed")
        }
    };
    problem(status, code, &Chain(error).to_string())
}

/// JSON of printable ASCII only: any other character is an escape of its UTF-16 (RFC 8259 §7).
fn header_text(stat: &FileStat) -> String {
    // A structure of strings and numbers always has a JSON form.
    let json = serde_json::to_string(stat).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_carries_any_name() {
        let stat = FileStat {
            name: "é \u{1F600}\n\"~\u{7f}".to_owned(),
            kind: FileKind::Link,
            size_bytes: 7,
            mode: 0o4755,
            link_target: Some("ü".to_owned()),
        };
        let text = header_text(&stat);
        assert!(text.chars().all(|c| matches!(c, ' '..='~')), "{text}");
        assert!(HeaderValue::try_from(text.as_str()).is_ok());
        assert_eq!(serde_json::from_str::<FileStat>(&text).unwrap(), stat);
    }
}
