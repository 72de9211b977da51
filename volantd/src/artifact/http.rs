//! Downloads by HTTP(S): bounded in size, time, redirects and attempts. Every attempt begins anew; nothing is resumed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use hyper::body::Bytes;
use reqwest::StatusCode;
use reqwest::redirect::{Attempt, Policy};
use tokio::sync::mpsc;

use super::fetch::Arrived;
use super::folder::{Folder, Writer};
use super::{ArtifactError, OnProgress, Progress, blocking};

/// How long connecting may take, with name resolution and TLS.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// How long a server may be silent before the attempt is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

/// How often a server may send elsewhere. GitHub's releases need one.
const MAX_REDIRECTS: usize = 5;

/// Attempts in all.
const MAX_ATTEMPTS: u32 = 4;

/// The pause after the first failed attempt; it doubles with each: 0.5, 1 and 2 s.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Chunks (about 16 KiB each) that wait for the disk: enough to keep the line busy, a bound on memory.
const MAX_WAITING_CHUNKS: usize = 64;

/// A client for downloads. Proxies are those of the environment; roots of trust are the host's.
fn client() -> Result<reqwest::Client, ArtifactError> {
    // Only the first call of a process has an effect; whoever was first chose the same provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        .user_agent(concat!("volantd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .redirect(Policy::custom(|attempt| match refusal(&attempt) {
            Some(refusal) => attempt.error(refusal),
            None => attempt.follow(),
        }))
        .build()
        .map_err(ArtifactError::Client)
}

/// A redirect that is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum RedirectRefusal {
    #[error("the server redirects from https to http")]
    Downgrade,
    #[error("the server redirects more than {MAX_REDIRECTS} times")]
    TooMany,
}

fn refusal(attempt: &Attempt<'_>) -> Option<RedirectRefusal> {
    let schemes: Vec<&str> = attempt
        .previous()
        .iter()
        .map(reqwest::Url::scheme)
        .collect();
    judge(&schemes, attempt.url().scheme())
}

/// `previous` are the schemes of all requests so far, the first one included.
fn judge(previous: &[&str], next: &str) -> Option<RedirectRefusal> {
    if previous.contains(&"https") && next != "https" {
        return Some(RedirectRefusal::Downgrade);
    }
    (previous.len() > MAX_REDIRECTS).then_some(RedirectRefusal::TooMany)
}

/// What to download.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// The URL.
    pub(super) url: &'a str,
    /// The URL as it may be shown.
    pub(super) from: String,
}

/// Downloads, with some patience for networks and servers that fail now and then.
pub(super) async fn download(
    folder: &Arc<Folder>,
    request: &Request<'_>,
    on_progress: &OnProgress,
) -> Result<Arrived, ArtifactError> {
    // Made for each download, because it needs the host's roots of trust: a host without any can still install from files.
    let client = blocking(client).await?;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match attempt_download(&client, folder, request, on_progress).await {
            Err(error) if attempt < MAX_ATTEMPTS && may_pass(&error) => {
                tracing::debug!(from = request.from, attempt, error = %common::error_chain::Chain(&error), "download failed, trying again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Whether the same again may go better.
fn may_pass(error: &ArtifactError) -> bool {
    match error {
        ArtifactError::Unreachable { source, .. } => !source.is_builder(),
        ArtifactError::Incomplete { .. } => true,
        ArtifactError::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
        _ => false,
    }
}

async fn attempt_download(
    client: &reqwest::Client,
    folder: &Arc<Folder>,
    request: &Request<'_>,
    on_progress: &OnProgress,
) -> Result<Arrived, ArtifactError> {
    let from = || request.from.clone();
    let response = client
        .get(request.url)
        .send()
        .await
        .map_err(|error| failed(request, error))?;
    if response.status() != StatusCode::OK {
        return Err(ArtifactError::Refused {
            from: from(),
            status: response.status().as_u16(),
        });
    }
    let total_bytes = response.content_length();
    if total_bytes.is_some_and(|total| total > folder.max_bytes()) {
        return Err(ArtifactError::TooLarge {
            from: from(),
            limit_bytes: folder.max_bytes(),
        });
    }
    // Hashing and writing have a thread of their own; without room in the channel the download waits for the disk.
    let (chunks, mut queue) = mpsc::channel::<Bytes>(MAX_WAITING_CHUNKS);
    let (folder, shown) = (Arc::clone(folder), from());
    let writing = blocking(move || {
        let mut writer = folder.begin(shown)?;
        while let Some(chunk) = queue.blocking_recv() {
            writer.write(&chunk)?;
        }
        Ok(writer)
    });
    let receiving = async move {
        let mut stream = response.bytes_stream();
        let mut received_bytes: u64 = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| failed(request, error))?;
            received_bytes =
                received_bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            if chunks.send(chunk).await.is_err() {
                // The writer failed: its error says more.
                return Ok(());
            }
            on_progress(Progress {
                received_bytes,
                total_bytes,
            });
        }
        Ok(())
    };
    let (received, writer) = tokio::join!(receiving, writing);
    let writer: Writer = writer?;
    received?;
    if let Some(announced_bytes) = total_bytes.filter(|total| *total != writer.bytes()) {
        return Err(ArtifactError::Incomplete {
            from: from(),
            received_bytes: writer.bytes(),
            announced_bytes,
        });
    }
    let (partial, digest) = blocking(move || writer.finish()).await?;
    Ok(Arrived { partial, digest })
}

fn failed(request: &Request<'_>, error: reqwest::Error) -> ArtifactError {
    // The client's own message would show the URL with its secrets.
    let error = error.without_url();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(refusal) = current.downcast_ref::<RedirectRefusal>() {
            return ArtifactError::Redirected {
                from: request.from.clone(),
                reason: refusal.to_string(),
            };
        }
        cause = current.source();
    }
    ArtifactError::Unreachable {
        from: request.from.clone(),
        source: error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_go_up_and_not_far() {
        let table = [
            (&["http"][..], "http", None),
            (&["http"], "https", None),
            (&["https"], "https", None),
            (&["https"], "http", Some(RedirectRefusal::Downgrade)),
            (&["http", "https"], "http", Some(RedirectRefusal::Downgrade)),
            (&["http"; 5], "http", None),
            (&["http"; 6], "http", Some(RedirectRefusal::TooMany)),
        ];
        for (previous, next, expected) in table {
            assert_eq!(judge(previous, next), expected, "{previous:?} {next}");
        }
    }
}
