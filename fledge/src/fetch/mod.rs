//! Gets the files that a plan needs onto this machine, and checks them. What was downloaded once with a checksum is kept and needs no
//! network again.

mod cache;
mod http;
mod release;

use std::io;
use std::path::PathBuf;

use common::build_spec::Download;
use common::digest::Digest;

use crate::plan::FileSource;
use crate::ui::Ui;

pub use cache::Cache;
pub use http::Client;
pub use release::{RELEASES_URL, Shipped};

/// The largest file that is downloaded, in bytes. An agent has 3 MB, a busybox 2 MB.
pub const MAX_DOWNLOAD_BYTES: u64 = 512 * 1024 * 1024;

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
        source: reqwest::Error,
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
                let found = cache::digest_of(path)?;
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
            FileSource::Download(download) => self.download(name, download).await,
            FileSource::Release { version, checksum } => self.agent(version, *checksum).await,
        }
    }

    /// The path of a download in the cache.
    async fn download(&self, name: &str, download: &Download) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.cache.find(download.checksum)? {
            self.ui.detail(&format!(
                "{name}: {} from the cache ({})",
                download.url, download.checksum
            ));
            return Ok(path);
        }
        self.ui
            .detail(&format!("{name}: downloading {}", download.url));
        let partial = self.cache.begin()?;
        let progress = self.ui.download(name);
        let (partial, found) = self
            .client
            .download(&download.url, partial, MAX_DOWNLOAD_BYTES, &progress)
            .await?;
        progress.finish();
        if found != download.checksum {
            return Err(FetchError::Checksum {
                from: download.url.clone(),
                expected: download.checksum,
                found,
            });
        }
        self.cache.keep(partial, found)
    }
}
