//! Downloads one blob into the cache: goes on where it broke off, and keeps nothing that has another digest.

use std::io;
use std::time::Duration;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::{Registry, RegistryError};
use crate::fetch::Partial;
use crate::oci::descriptor::Descriptor;
use crate::ui::Progress;

/// How often a download is tried.
const MAX_ATTEMPTS: u32 = 4;

/// How long it waits before the second attempt; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// Makes sure that the blob is in the cache. One that is there is not hashed: whoever reads it does that.
pub(super) async fn download(
    registry: &Registry,
    blob: &Descriptor,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let cache = &registry.shared.cache;
    let path = cache.path(blob.digest);
    if cache.find_unhashed(blob.digest, blob.size)?.is_some() {
        progress.advance(blob.size);
        return Ok(());
    }
    let written = |source: io::Error| RegistryError::Write {
        path: path.clone(),
        source,
    };
    let mut partial = cache.resume(blob.digest)?;
    if partial.bytes() > blob.size {
        partial.restart().map_err(written)?;
    }
    let is_resumed = partial.bytes() > 0;
    progress.advance(partial.bytes());
    fill(registry, blob, &mut partial, progress).await?;
    if partial.digest() != blob.digest && is_resumed {
        // What was there before may have been damaged.
        partial.restart().map_err(written)?;
        fill(registry, blob, &mut partial, progress).await?;
    }
    let found = partial.digest();
    if found == blob.digest {
        cache.keep(partial, blob.digest)?;
        return Ok(());
    }
    // What is empty does not stay.
    partial.restart().map_err(written)?;
    Err(RegistryError::Digest {
        what: "blob",
        image: registry.image(),
        expected: blob.digest,
        found,
    })
}

/// Downloads what is missing, in several attempts where the connection breaks.
async fn fill(
    registry: &Registry,
    blob: &Descriptor,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let mut pause = FIRST_PAUSE;
    for attempt in 1.. {
        match try_fill(registry, blob, partial, progress).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt >= MAX_ATTEMPTS || !is_transient(&error) => return Err(error),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
    Ok(())
}

/// Whether the next attempt may succeed.
fn is_transient(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unreachable { source, .. } => !source.is_connect(),
        RegistryError::Size { .. } => true,
        RegistryError::Status { status, .. } => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        _ => false,
    }
}

async fn try_fill(
    registry: &Registry,
    blob: &Descriptor,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let have = partial.bytes();
    if have == blob.size && have > 0 {
        return Ok(());
    }
    let written = |source: io::Error| RegistryError::Write {
        path: registry.shared.cache.path(blob.digest),
        source,
    };
    let wrong_size = || RegistryError::Size {
        image: registry.image(),
        digest: blob.digest,
        size_bytes: blob.size,
    };
    let from = (have > 0).then_some(have);
    let mut response = registry
        .get(&format!("blobs/{}", blob.digest), from)
        .await?;
    if from.is_some() && !continues(&response, have) {
        // This server begins from the start, or somewhere else.
        partial.restart().map_err(written)?;
        if response.status() != StatusCode::OK {
            return Err(wrong_size());
        }
    }
    loop {
        let chunk = response.chunk().await;
        let Some(chunk) = chunk.map_err(|error| registry.unreachable(error))? else {
            break;
        };
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if length > blob.size - partial.bytes() {
            partial.restart().map_err(written)?;
            return Err(wrong_size());
        }
        partial.push(&chunk).map_err(written)?;
        progress.advance(length);
    }
    if partial.bytes() == blob.size {
        Ok(())
    } else {
        Err(wrong_size())
    }
}

/// Whether the answer goes on at byte `from`.
fn continues(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let start = range.and_then(|value| {
        let range = value.to_str().ok()?.strip_prefix("bytes ")?;
        range.split('-').next()?.parse::<u64>().ok()
    });
    response.status() == StatusCode::PARTIAL_CONTENT && start == Some(from)
}
