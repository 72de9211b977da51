//! Downloads over HTTP and HTTPS: bounded in size and in silence, going on where an earlier one stopped. Certificates
//! are those that the system trusts.

use std::cell::OnceCell;
use std::io;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::watch;

use super::FetchError;
use super::partial::Partial;
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

    /// The client itself, for who speaks more than downloads.
    pub(crate) fn http(&self) -> Result<&reqwest::Client, FetchError> {
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

    /// Adds to `partial` what is missing of the file at `url`. A server that cannot begin in the middle, or has another version by
    /// now, sends all of it.
    pub(super) async fn download(
        &self,
        url: &str,
        partial: &mut Partial,
        limit_bytes: u64,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let mut interrupted = self.interrupted.clone();
        tokio::select! {
            result = self.stream(url, partial, limit_bytes, progress) => result,
            // The sender lives as long as the program: an error here is no interruption.
            Ok(_) = interrupted.wait_for(|&stop| stop) => Err(FetchError::Interrupted),
        }
    }

    async fn stream(
        &self,
        url: &str,
        partial: &mut Partial,
        limit_bytes: u64,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        let too_large = || FetchError::TooLarge {
            url: url.to_owned(),
            limit_bytes,
        };
        let unwritten = |source| FetchError::Write {
            url: url.to_owned(),
            source,
        };
        let mut response = self.begin(url, partial, &unwritten).await?;
        if let Some(bytes) = response.content_length() {
            let total = bytes.saturating_add(partial.bytes());
            if total > limit_bytes {
                return Err(too_large());
            }
            progress.total(total);
        }
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|source| unreachable(url, source))?
        {
            partial.push(&chunk).map_err(unwritten)?;
            if partial.bytes() > limit_bytes {
                return Err(too_large());
            }
            progress.at(partial.bytes());
        }
        Ok(())
    }

    /// An answer that goes on where `partial` ends.
    async fn begin(
        &self,
        url: &str,
        partial: &mut Partial,
        unwritten: &impl Fn(io::Error) -> FetchError,
    ) -> Result<Response, FetchError> {
        let mut response = self.request(url, partial).await?;
        if partial.bytes() > 0 {
            let is_rest = begins_at(&response) == Some(partial.bytes());
            if response.status() == StatusCode::PARTIAL_CONTENT && is_rest {
                partial.go_on();
                return Ok(response);
            }
            let is_other_part = matches!(
                response.status(),
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
            );
            if is_other_part || response.status().is_success() {
                partial.restart().map_err(unwritten)?;
            }
            if is_other_part {
                response = self.request(url, partial).await?;
            }
        }
        if !response.status().is_success() {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: response.status(),
            });
        }
        // Only a strong one promises the same bytes (RFC 9110 §8.8.1).
        let validator = response
            .headers()
            .get(ETAG)
            .and_then(|tag| tag.to_str().ok());
        if let Some(validator) = validator.filter(|tag| tag.starts_with('"')) {
            partial.set_validator(url, validator).map_err(unwritten)?;
        }
        Ok(response)
    }

    async fn request(&self, url: &str, partial: &Partial) -> Result<Response, FetchError> {
        let mut request = self.http()?.get(url);
        if partial.bytes() > 0 {
            request = request.header(RANGE, format!("bytes={}-", partial.bytes()));
            if let Some(validator) = partial.validator(url) {
                request = request.header(IF_RANGE, validator);
            }
        }
        request
            .send()
            .await
            .map_err(|source| unreachable(url, source))
    }
}

fn unreachable(url: &str, source: reqwest::Error) -> FetchError {
    FetchError::Unreachable {
        url: url.to_owned(),
        source: source.into(),
    }
}

/// Where the part that a server sends begins: `bytes 100-199/200` (RFC 9110 §14.4).
fn begins_at(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (first, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    first.parse().ok()
}
