//! Downloads over HTTP and HTTPS: bounded in size and in silence, hashed on the way. Certificates are those that the system trusts.

use std::cell::OnceCell;
use std::io::Write;
use std::time::Duration;

use common::digest::Digest;
use reqwest::Response;
use tokio::sync::watch;

use super::FetchError;
use crate::image::hashed::Hashed;
use crate::ui::Progress;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may be silent. There is no limit on the whole: a slow line is not an error.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP client. It is set up at its first download: a build without one needs no certificates.
#[derive(Debug, Clone)]
pub struct Client {
    http: OnceCell<reqwest::Client>,
    interrupted: watch::Receiver<bool>,
}

impl Client {
    /// A client whose downloads stop when `interrupted` becomes true.
    pub fn new(interrupted: watch::Receiver<bool>) -> Self {
        Self {
            http: OnceCell::new(),
            interrupted,
        }
    }

    fn http(&self) -> Result<&reqwest::Client, FetchError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        // It fails only where a provider is installed already, and then that one serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .user_agent(concat!("fledge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(FetchError::Setup)?;
        Ok(self.http.get_or_init(|| http))
    }

    /// Writes what is at `url` to `out`, and returns `out` with the digest.
    pub(super) async fn download<W: Write>(
        &self,
        url: &str,
        out: W,
        limit_bytes: u64,
        progress: &Progress,
    ) -> Result<(W, Digest), FetchError> {
        let mut interrupted = self.interrupted.clone();
        tokio::select! {
            result = self.stream(url, out, limit_bytes, progress) => result,
            // The sender lives as long as the program: an error here is no interruption.
            Ok(_) = interrupted.wait_for(|&stop| stop) => Err(FetchError::Interrupted),
        }
    }

    async fn stream<W: Write>(
        &self,
        url: &str,
        out: W,
        limit_bytes: u64,
        progress: &Progress,
    ) -> Result<(W, Digest), FetchError> {
        let unreachable = |source: reqwest::Error| FetchError::Unreachable {
            url: url.to_owned(),
            source: source.without_url(),
        };
        let too_large = || FetchError::TooLarge {
            url: url.to_owned(),
            limit_bytes,
        };
        let mut response: Response = self.http()?.get(url).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: response.status(),
            });
        }
        if let Some(bytes) = response.content_length() {
            if bytes > limit_bytes {
                return Err(too_large());
            }
            progress.total(bytes);
        }
        let mut out = Hashed::new(out);
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            out.write_all(&chunk).map_err(|source| FetchError::Write {
                url: url.to_owned(),
                source,
            })?;
            if out.bytes() > limit_bytes {
                return Err(too_large());
            }
            progress.at(out.bytes());
        }
        Ok(out.finish())
    }
}
