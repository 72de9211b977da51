//! Gets the files that a plan needs onto this machine, and checks them. What was downloaded once with a checksum is kept and needs no
//! network again.

mod cache;
mod connection_error;
mod http;
pub mod member;
mod partial;
mod release;

use std::io;
use std::path::PathBuf;

use common::digest::Digest;
use common::error_chain::Chain;

use crate::plan::FileSource;
use crate::ui::Ui;

pub(crate) use partial::Partial;

pub use cache::Cache;
pub(crate) use cache::digest_of;
pub use connection_error::ConnectionError;
pub use http::Client;
pub use release::{RELEASES_URL, Shipped};

/// The largest file that is downloaded, in bytes. An agent has 3 MB, a busybox 2 MB.
pub const MAX_DOWNLOAD_BYTES: u64 = 512 * 1024 * 1024;

/// How often a download goes on after a broken connection, each time only if something had arrived.
const MAX_RETRIES: u32 = 5;

/// A file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached, or the connection breaks.
    #[error("Cannot download `{url}`")]
    Unreachable {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: ConnectionError,
    },
    /// The server says no.
    #[error("Cannot download `{url}`: the server answered {status}")]
    Status {
        /// The URL.
        url: String,
        /// Its status, such as `404 Not Found`.
        status: reqwest::StatusCode,
    },
    /// It is larger than it may be.
    #[error("`{url}` has more than {limit_bytes} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// It is not what it should be.
    #[error("Checksum of `{from}` does not match: expected {expected}, got {found}")]
    Checksum {
        /// URL or path.
        from: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// No server has it.
    #[error("None of {} servers has the file: {}", failures.len(), listed(failures))]
    Nowhere {
        /// What each of them did, in the order in which they were asked.
        failures: Vec<Self>,
    },
    /// A release does not say what its agent is.
    #[error("`{url}` has no SHA-256 of `{name}`: the agent cannot be verified")]
    NoChecksum {
        /// The list of checksums.
        url: String,
        /// The file.
        name: &'static str,
    },
    /// A file of this machine does not exist.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// Its path.
        path: PathBuf,
    },
    /// A file of this machine is a directory or a device.
    #[error("`{}` is not a file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// A file of this machine cannot be read.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What arrives cannot be written.
    #[error("Cannot write what was downloaded from `{url}`")]
    Write {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cache cannot be written.
    #[error("Cannot keep the download in `{}`", path.display())]
    Cache {
        /// The cache's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error("Cannot set up HTTPS")]
    Setup(#[source] reqwest::Error),
    /// The user pressed Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
}

/// Gets files. Everything that is downloaded goes through one client and one cache.
#[derive(Debug)]
pub struct Fetcher<'a> {
    /// The HTTP client.
    pub client: Client,
    /// Where downloads are kept.
    pub cache: Cache,
    /// Where releases are downloaded from, without `/` at the end.
    pub releases_url: String,
    /// The agent beside this program, if there is one.
    pub shipped: Shipped,
    /// For progress and notes.
    pub ui: &'a Ui,
}

impl Fetcher<'_> {
    /// The path of a file that is what `source` asks for.
    ///
    /// # Errors
    /// Where it cannot be had or is not what it should be.
    pub async fn fetch(
        &self,
        name: &'static str,
        source: &FileSource,
    ) -> Result<PathBuf, FetchError> {
        match source {
            FileSource::Host { path, checksum } => {
                let found = digest_of(path)?;
                if let Some(expected) = *checksum
                    && expected != found
                {
                    let from = path.display().to_string();
                    return Err(FetchError::Checksum {
                        from,
                        expected,
                        found,
                    });
                }
                self.ui
                    .detail(&format!("{name}: {} ({found})", path.display()));
                Ok(path.clone())
            }
            FileSource::Download(download) => {
                let urls = std::slice::from_ref(&download.url);
                self.download(name, urls, download.checksum).await
            }
            FileSource::Release { version, checksum } => self.agent(version, *checksum).await,
        }
    }

    /// The path of a download in the cache. `urls` are tried in order, until one gives the file that has this digest; `name` is for
    /// people.
    ///
    /// # Errors
    /// Why none of them gives it, or why nothing can be written here.
    pub async fn download(
        &self,
        name: &str,
        urls: &[String],
        checksum: Digest,
    ) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.cache.find(checksum)? {
            self.ui
                .detail(&format!("{name}: from the cache ({checksum})"));
            return Ok(path);
        }
        let mut partial = self.cache.resume(checksum)?;
        let mut failures = Vec::new();
        for url in urls {
            self.ui.detail(&format!("{name}: downloading {url}"));
            match self.download_from(url, name, &mut partial, checksum).await {
                Ok(()) => return self.cache.keep(partial, checksum),
                Err(error) if error.is_about_server() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        Err(match failures.pop() {
            Some(only) if failures.is_empty() => only,
            last => {
                failures.extend(last);
                FetchError::Nowhere { failures }
            }
        })
    }

    /// Completes `partial` from one URL.
    async fn download_from(
        &self,
        url: &str,
        name: &str,
        partial: &mut Partial,
        checksum: Digest,
    ) -> Result<(), FetchError> {
        let unwritten = |source| FetchError::Write {
            url: url.to_owned(),
            source,
        };
        loop {
            // It may be whole already, if only its name is missing.
            if partial.bytes() == 0 || partial.digest() != checksum {
                let result = self.transfer(url, name, partial).await;
                if matches!(result, Err(FetchError::TooLarge { .. })) {
                    partial.restart().map_err(unwritten)?;
                }
                result?;
            }
            let found = partial.digest();
            if found == checksum {
                return Ok(());
            }
            // What was there before may be of another version or of another server: it gets one chance from the beginning.
            let is_continued = partial.is_continued();
            partial.restart().map_err(unwritten)?;
            if !is_continued {
                return Err(FetchError::Checksum {
                    from: url.to_owned(),
                    expected: checksum,
                    found,
                });
            }
        }
    }

    /// Downloads until the end, again as long as a broken connection brought anything.
    async fn transfer(
        &self,
        url: &str,
        name: &str,
        partial: &mut Partial,
    ) -> Result<(), FetchError> {
        let progress = self.ui.download(name);
        let mut retries = 0;
        loop {
            let before_bytes = partial.bytes();
            let result = self
                .client
                .download(url, partial, MAX_DOWNLOAD_BYTES, &progress)
                .await;
            match result {
                Err(FetchError::Unreachable { .. })
                    if partial.bytes() > before_bytes && retries < MAX_RETRIES =>
                {
                    retries += 1;
                }
                _ => {
                    progress.finish();
                    return result;
                }
            }
        }
    }
}

impl FetchError {
    /// Whether another server might do better.
    fn is_about_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Status { .. }
                | Self::TooLarge { .. }
                | Self::Checksum { .. }
        )
    }
}

fn listed(failures: &[FetchError]) -> String {
    let reasons: Vec<String> = failures
        .iter()
        .map(|failure| Chain(failure).to_string())
        .collect();
    reasons.join("; ")
}
