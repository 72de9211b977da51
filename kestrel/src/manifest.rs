//! Where the guest's manifest comes from: the command line, the guest config, or an API that the command line names. It is not kept anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use common::cmdline::{
    DecodeError, KEY_API_HOST, KEY_API_PORT, KEY_MANIFEST, KEY_PLUGIN, decode_manifest,
};
use common::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError};
use common::name::Name;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use tokio::time::Instant;

use crate::boot::Facts;
use crate::http_client::{HttpError, connect, send};

/// How long the API is asked again while it does not answer: it may be starting with its guests.
const FETCH_BOUND: Duration = Duration::from_secs(10);

/// The longest time of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The wait before the second request; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// The longest wait between requests.
const MAX_RETRY: Duration = Duration::from_secs(2);

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoManifest {
    /// On the command line, and not readable.
    #[error("The manifest on the kernel command line is refused")]
    CommandLine(#[source] DecodeError),
    /// Nobody gave one.
    #[error(
        "No manifest: neither `{KEY_MANIFEST}` on the kernel command line nor the guest config has one, and no API is named"
    )]
    NotGiven,
    /// An API is named, but not in a way that can be asked.
    #[error("The command line's `{key}` is `{value}`, which names no API to ask for the manifest")]
    BadApi {
        /// The key.
        key: &'static str,
        /// Its value, possibly empty.
        value: String,
    },
    /// The API does not answer, or not with a manifest.
    #[error("Cannot get the manifest from {url}")]
    Fetch {
        /// What was asked for.
        url: String,
        /// The last reason.
        source: FetchError,
    },
}

/// Why an API gave no manifest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No connection or no answer.
    #[error("No answer")]
    Exchange(#[source] HttpError),
    /// No answer in time.
    #[error("No answer within {} ms", REQUEST_TIMEOUT.as_millis())]
    Timeout,
    /// Another status than 200.
    #[error("It answered {0}")]
    Status(StatusCode),
    /// The body broke off.
    #[error("The answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More than a manifest may have.
    #[error("The answer has more than {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    /// Not a manifest.
    #[error("The answer is refused")]
    Manifest(#[source] ManifestError),
}

impl FetchError {
    /// Whether asking again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Exchange(HttpError::Host { .. }) | Self::TooLarge | Self::Manifest(_) => false,
            Self::Status(status) => status.is_server_error(),
            Self::Exchange(_) | Self::Timeout | Self::Body(_) => true,
        }
    }
}

/// The manifest that the guest has with it; nothing if it must be fetched.
pub(crate) fn local(facts: &Facts) -> Result<Option<Manifest>, NoManifest> {
    let on_line = facts
        .words
        .get(KEY_MANIFEST)
        .filter(|value| !value.is_empty())
        .map(|value| decode_manifest(value).map_err(NoManifest::CommandLine))
        .transpose()?;
    let in_config = || {
        facts
            .config
            .as_ref()
            .and_then(|config| config.manifest.clone())
    };
    Ok(on_line
        .or_else(in_config)
        .map(|manifest| with_env(manifest, facts)))
}

/// Asks the API that the command line names.
pub(crate) async fn fetch(facts: &Facts) -> Result<Manifest, NoManifest> {
    let api = Api::from_words(&facts.words)?;
    let deadline = Instant::now() + FETCH_BOUND;
    let mut wait = FIRST_RETRY;
    loop {
        let error = match tokio::time::timeout(REQUEST_TIMEOUT, api.ask()).await {
            Ok(Ok(manifest)) => return Ok(with_env(manifest, facts)),
            Ok(Err(error)) => error,
            Err(_) => FetchError::Timeout,
        };
        if !error.may_pass() || Instant::now() + wait >= deadline {
            return Err(NoManifest::Fetch {
                url: api.url(),
                source: error,
            });
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RETRY);
    }
}

/// The environment that volantd keeps off the command line.
fn with_env(mut manifest: Manifest, facts: &Facts) -> Manifest {
    if let Some(config) = facts
        .config
        .as_ref()
        .filter(|config| !config.env.is_empty())
    {
        manifest.workload.env.clone_from(&config.env);
    }
    manifest
}

#[derive(Debug, PartialEq, Eq)]
struct Api {
    host: String,
    port: u16,
    plugin: Name,
}

impl Api {
    fn from_words(words: &BTreeMap<String, String>) -> Result<Self, NoManifest> {
        let value = |key: &'static str| words.get(key).cloned().unwrap_or_default();
        let host = value(KEY_API_HOST);
        if host.is_empty() {
            return Err(NoManifest::NotGiven);
        }
        let bad = |key: &'static str| NoManifest::BadApi {
            key,
            value: value(key),
        };
        Ok(Self {
            port: value(KEY_API_PORT).parse().map_err(|_| bad(KEY_API_PORT))?,
            plugin: value(KEY_PLUGIN).parse().map_err(|_| bad(KEY_PLUGIN))?,
            host,
        })
    }

    fn path(&self) -> String {
        format!("/api/v1/plugins/{}/manifest", self.plugin)
    }

    fn url(&self) -> String {
        format!("http://{}:{}{}", self.host, self.port, self.path())
    }

    async fn ask(&self) -> Result<Manifest, FetchError> {
        let stream = connect(&self.host, self.port)
            .await
            .map_err(FetchError::Exchange)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        // A plugin's name is safe in a path: it always parses.
        if let Ok(uri) = self.path().parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if let Ok(host) = HeaderValue::try_from(format!("{}:{}", self.host, self.port)) {
            headers.insert(HOST, host);
        }
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = send(stream, request).await.map_err(FetchError::Exchange)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_MANIFEST_BYTES);
        let json = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge
            } else {
                FetchError::Body(error)
            }
        })?;
        Manifest::from_json(&json.to_bytes()).map_err(FetchError::Manifest)
    }
}

#[cfg(test)]
mod tests;
