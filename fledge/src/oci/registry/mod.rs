//! Images in registries (OCI distribution specification, docker's registry v2). Tokens are oci-client's work; manifests and blobs are
//! asked for here, because they must be bounded and downloads go on where they broke off.
//!
//! HTTPS only, except on this machine's own addresses.

mod blobs;
mod error;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::digest::Digest;
use oci_client::Reference;
use oci_client::RegistryOperation;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use super::auth::Credentials;
use super::config::MAX_CONFIG_BYTES;
use super::descriptor::{
    Descriptor, DescriptorError, Document, INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES,
    Manifest, is_document, shown_type,
};
use super::store::Stored;
use super::unpack::StoredLayer;
use crate::fetch::Cache;
use crate::tree::Content;
use crate::ui::{Progress, Ui};

pub use error::RegistryError;

/// How many layers are downloaded at the same time, as docker does.
const MAX_DOWNLOADS: usize = 3;

/// How many indexes may lie in each other.
const MAX_INDEX_DEPTH: usize = 4;

/// Media types that say nothing about a manifest: servers of plain files answer with them.
const GENERIC_TYPES: [&str; 4] = [
    "",
    "application/json",
    "application/octet-stream",
    "text/plain",
];

/// How long logging in may take: two short answers.
const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a connection may take to come about, and a server may be silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How requests are authorized.
#[derive(Clone)]
enum Authorization {
    None,
    Bearer(String),
    Basic(Credentials),
}

/// One image in a registry.
#[derive(Clone)]
pub(super) struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    reference: Reference,
    /// With scheme, host and repository.
    base_url: String,
    credentials: Option<Credentials>,
    authorization: Mutex<Authorization>,
    cache: Cache,
}

impl std::fmt::Debug for Registry {
    // Authorizations are secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("reference", &self.shared.reference)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// The registry of `reference`, whose layers are kept in `cache`.
    pub(super) fn new(
        http: reqwest::Client,
        reference: Reference,
        credentials: Option<Credentials>,
        cache: Cache,
    ) -> Self {
        let registry = reference.resolve_registry();
        let scheme = if is_loopback(registry) {
            "http"
        } else {
            "https"
        };
        let base_url = format!("{scheme}://{registry}/v2/{}", reference.repository());
        Self {
            shared: Arc::new(Shared {
                http,
                reference,
                base_url,
                credentials,
                authorization: Mutex::new(Authorization::None),
                cache,
            }),
        }
    }

    /// Downloads the image for this system's guests, as far as it is not in the cache.
    ///
    /// # Errors
    /// Where it cannot be had, or is not what it should be.
    pub(super) async fn pull(&self, ui: &Ui) -> Result<Stored, RegistryError> {
        self.log_in().await?;
        let (digest, manifest) = self.manifest().await?;
        let config = self.config(&manifest.config).await?;
        let progress = Arc::new(ui.download(self.shared.reference.repository()));
        progress.total(manifest.layers.iter().map(|layer| layer.size).sum());
        let pulled = self.layers(&manifest.layers, &progress).await;
        progress.finish();
        let layers = manifest.layers.iter().zip(pulled?);
        let stored = |(layer, path): (&Descriptor, PathBuf)| StoredLayer {
            digest: Some(layer.digest),
            diff_id: None,
            blob: Content::Host {
                path,
                size_bytes: layer.size,
            },
        };
        Ok(Stored {
            manifest: Some(digest),
            config,
            layers: layers.map(stored).collect(),
        })
    }

    /// Removes those of the image's layers from the cache that are not what their names say.
    ///
    /// # Errors
    /// Where they cannot be read or removed.
    pub(super) async fn forget_damaged(&self) -> Result<(), RegistryError> {
        let (_, manifest) = self.manifest().await?;
        let cache = self.shared.cache.clone();
        let cleaning = tokio::task::spawn_blocking(move || {
            let mut layers = manifest.layers.iter();
            // It removes what it finds damaged.
            layers.try_for_each(|layer| cache.find(layer.digest).map(drop))
        });
        let cleaned = cleaning.await.map_err(|_| RegistryError::Interrupted)?;
        Ok(cleaned?)
    }

    async fn layers(
        &self,
        layers: &[Descriptor],
        progress: &Arc<Progress>,
    ) -> Result<Vec<PathBuf>, RegistryError> {
        let slots = Arc::new(Semaphore::new(MAX_DOWNLOADS));
        let mut downloads = JoinSet::new();
        let mut paths: Vec<PathBuf> = Vec::with_capacity(layers.len());
        for layer in layers {
            let path = self.shared.cache.path(layer.digest);
            // The same layer twice is downloaded once.
            if !paths.contains(&path) {
                let (registry, layer) = (self.clone(), layer.clone());
                let (slots, progress) = (Arc::clone(&slots), Arc::clone(progress));
                downloads.spawn(async move {
                    let _slot = slots.acquire().await;
                    blobs::download(&registry, &layer, &progress).await
                });
            }
            paths.push(path);
        }
        while let Some(downloaded) = downloads.join_next().await {
            downloaded.map_err(|_| RegistryError::Interrupted)??;
        }
        Ok(paths)
    }

    /// The manifest for this platform with its digest, through indexes.
    async fn manifest(&self) -> Result<(Digest, Manifest), RegistryError> {
        let shared = &self.shared;
        let pinned = shared.reference.digest();
        let mut wanted = pinned.map(parse_pin).transpose()?;
        let mut name = pinned
            .or(shared.reference.tag())
            .unwrap_or("latest")
            .to_owned();
        let mut named = None;
        for _ in 0..MAX_INDEX_DEPTH {
            let (json, media_type) = self.manifest_bytes(&name).await?;
            let found = Digest::of(&json);
            if let Some(expected) = wanted.filter(|expected| *expected != found) {
                return Err(RegistryError::Digest {
                    what: "manifest",
                    image: self.image(),
                    expected,
                    found,
                });
            }
            // What an index says is verified, what an answer says is not.
            let kind = named.or(media_type);
            let document = Document::parse(&json, kind.as_deref());
            match document.map_err(|source| self.unusable(source))? {
                Document::Manifest(manifest) => return Ok((found, manifest)),
                Document::Index(index) => {
                    let chosen = index
                        .for_platform()
                        .map_err(|source| self.unusable(source))?;
                    wanted = Some(chosen.digest);
                    named = Some(chosen.media_type.clone()).filter(|kind| !kind.is_empty());
                    name = chosen.digest.to_string();
                }
            }
        }
        Err(RegistryError::NotFound {
            registry: self.host(),
            image: self.image(),
        })
    }

    async fn manifest_bytes(&self, name: &str) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let response = self.get(&format!("manifests/{name}"), None).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| {
            let value = value.to_str().ok()?.split(';').next()?;
            Some(value.trim().to_owned())
        });
        // Some servers call every file JSON or bytes; then the document itself must say what it is.
        let media_type = media_type.filter(|kind| !GENERIC_TYPES.contains(&kind.as_str()));
        if let Some(kind) = media_type.as_deref().filter(|kind| !is_document(kind)) {
            return Err(RegistryError::MediaType {
                registry: self.host(),
                image: self.image(),
                media_type: shown_type(kind),
            });
        }
        let bytes = self.body(response, MAX_MANIFEST_BYTES).await?;
        Ok((bytes, media_type))
    }

    async fn config(&self, config: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let response = self.get(&format!("blobs/{}", config.digest), None).await?;
        let bytes = self.body(response, MAX_CONFIG_BYTES).await?;
        let found = Digest::of(&bytes);
        if found == config.digest {
            return Ok(bytes);
        }
        Err(RegistryError::Digest {
            what: "config",
            image: self.image(),
            expected: config.digest,
            found,
        })
    }

    async fn body(
        &self,
        mut response: Response,
        limit_bytes: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit_bytes {
                return Err(RegistryError::TooLarge {
                    image: self.image(),
                    limit_bytes,
                });
            }
        }
        Ok(bytes)
    }

    /// Asks for something of the repository, from byte `from` on. A token that is too old is renewed once.
    async fn get(&self, path: &str, from: Option<u64>) -> Result<Response, RegistryError> {
        let response = self.send(path, from).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_renewable().await {
            return self.checked(response, path);
        }
        self.log_in().await?;
        let response = self.send(path, from).await?;
        self.checked(response, path)
    }

    async fn is_renewable(&self) -> bool {
        matches!(
            *self.shared.authorization.lock().await,
            Authorization::Bearer(_)
        )
    }

    async fn send(&self, path: &str, from: Option<u64>) -> Result<Response, RegistryError> {
        let shared = &self.shared;
        let url = format!("{}/{path}", shared.base_url);
        let mut request = shared.http.get(url);
        for media_type in MANIFEST_TYPES.into_iter().chain(INDEX_TYPES) {
            request = request.header(ACCEPT, media_type);
        }
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let authorization = shared.authorization.lock().await.clone();
        let request = match authorization {
            Authorization::None => request,
            Authorization::Bearer(token) => request.bearer_auth(token),
            Authorization::Basic(Credentials { username, password }) => {
                request.basic_auth(username, Some(password))
            }
        };
        request.send().await.map_err(|e| self.unreachable(e))
    }

    fn checked(&self, response: Response, path: &str) -> Result<Response, RegistryError> {
        let (registry, image) = (self.host(), self.image());
        match response.status() {
            // Whoever asks for a range handles an unsatisfiable one.
            status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
                Ok(response)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(RegistryError::Unauthorized { registry, image })
            }
            StatusCode::NOT_FOUND => {
                let image = match path.strip_prefix("blobs/") {
                    Some(blob) => format!("{image}: {blob}"),
                    None => image,
                };
                Err(RegistryError::NotFound { registry, image })
            }
            status => Err(RegistryError::Status {
                registry,
                image,
                status,
            }),
        }
    }

    /// Gets a token, where the registry wants one.
    async fn log_in(&self) -> Result<(), RegistryError> {
        let shared = &self.shared;
        let host = self.host();
        let config = ClientConfig {
            protocol: if is_loopback(&host) {
                ClientProtocol::HttpsExcept(vec![host.clone()])
            } else {
                ClientProtocol::Https
            },
            platform_resolver: None,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("fledge/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)
            .map_err(|error| RegistryError::Setup(Box::new(error)))?;
        let auth = match &shared.credentials {
            Some(Credentials { username, password }) => {
                RegistryAuth::Basic(username.clone(), password.clone())
            }
            None => RegistryAuth::Anonymous,
        };
        let login = client.auth(&shared.reference, &auth, RegistryOperation::Pull);
        let token = match tokio::time::timeout(LOGIN_TIMEOUT, login).await {
            Ok(result) => result.map_err(|error| self.login_error(error))?,
            Err(_) => return Err(RegistryError::Silent { registry: host }),
        };
        *shared.authorization.lock().await = match (token, &shared.credentials) {
            (Some(token), _) => Authorization::Bearer(token),
            (None, Some(credentials)) => Authorization::Basic(credentials.clone()),
            (None, None) => Authorization::None,
        };
        Ok(())
    }

    /// Answers of token servers are not shown: they may repeat what was sent.
    fn login_error(&self, error: OciDistributionError) -> RegistryError {
        match error {
            OciDistributionError::RequestError(error) => self.unreachable(error),
            OciDistributionError::AuthenticationFailure(_) => RegistryError::Unauthorized {
                registry: self.host(),
                image: self.image(),
            },
            _ => RegistryError::Login {
                registry: self.host(),
            },
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.host(),
            source: error.into(),
        }
    }

    fn unusable(&self, source: DescriptorError) -> RegistryError {
        RegistryError::Descriptor {
            image: self.image(),
            source,
        }
    }

    fn host(&self) -> String {
        self.shared.reference.resolve_registry().to_owned()
    }

    fn image(&self) -> String {
        self.shared.reference.to_string()
    }
}

fn parse_pin(digest: &str) -> Result<Digest, RegistryError> {
    let is_sha256 = digest.starts_with("sha256:");
    let parsed = if is_sha256 { digest.parse().ok() } else { None };
    parsed.ok_or_else(|| RegistryError::Pin {
        digest: digest.to_owned(),
    })
}

/// Whether a host, with or without a port, is this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
