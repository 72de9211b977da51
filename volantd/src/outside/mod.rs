//! Fetches small documents that a manifest names from the public Internet, and from nowhere else: a plugin's author must not be able to
//! read what only this host can reach. Knows no files, follows no proxy, keeps nothing.

mod address;
mod own;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::machine::ports::BoxFuture;

/// How long all of it may take: names, connections, redirects and the document.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// How often a server may send elsewhere. Each address is looked at like the first.
const MAX_REDIRECTS: usize = 3;

/// A document that is not fetched.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// It is not an address of the web.
    #[error("`{url}` is not an address of the form `https://host/path`")]
    Url {
        /// What was given, as far as it may be shown.
        url: String,
    },
    /// Its name leads nowhere.
    #[error("The host `{host}` cannot be found")]
    Name {
        /// The name.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is inside.
    #[error("The host `{host}` is not on the public Internet")]
    NotPublic {
        /// The host.
        host: String,
    },
    /// It cannot be asked.
    #[error("The host `{host}` cannot be reached")]
    Unreachable {
        /// The host.
        host: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// It says no.
    #[error("The host `{host}` answers with HTTP status {status}")]
    Refused {
        /// The host.
        host: String,
        /// The status.
        status: u16,
    },
    /// It sends elsewhere again and again, or to an address that is worse.
    #[error("The host `{host}` redirects too often, or from https to http")]
    Redirects {
        /// The host.
        host: String,
    },
    /// The document is too large.
    #[error("The document is larger than {limit} bytes")]
    TooLarge {
        /// How large it may be.
        limit: usize,
    },
    /// It takes too long.
    #[error("The document did not come within {} s", FETCH_LIMIT.as_secs())]
    TimedOut,
}

/// What fetches.
#[derive(Debug, Clone, Copy)]
pub struct Outside {
    admits: fn(IpAddr) -> bool,
    is_own: fn(IpAddr) -> BoxFuture<'static, bool>,
    max_document_bytes: usize,
}

impl Outside {
    /// One that fetches documents of so many bytes at most.
    pub fn new(max_document_bytes: usize) -> Self {
        Self {
            admits: address::is_public,
            is_own: own::is_own,
            max_document_bytes,
        }
    }

    /// Fetches the document at `url`.
    ///
    /// # Errors
    /// [`OutsideError`].
    pub async fn fetch(&self, url: &str) -> Result<Vec<u8>, OutsideError> {
        let fetched = timeout(FETCH_LIMIT, self.follow(url)).await;
        fetched.unwrap_or(Err(OutsideError::TimedOut))
    }

    async fn follow(&self, url: &str) -> Result<Vec<u8>, OutsideError> {
        let mut target = Target::of(url.parse().ok(), url)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&target).await?;
            let status = response.status();
            if status.is_redirection() {
                target = target.next(&response)?;
            } else if status.is_success() {
                return self.read(response, &target.host).await;
            } else {
                return Err(OutsideError::Refused {
                    host: target.host,
                    status: status.as_u16(),
                });
            }
        }
        Err(OutsideError::Redirects { host: target.host })
    }

    /// Asks one host, at the addresses that were looked at and no others.
    async fn ask(&self, target: &Target) -> Result<Response, OutsideError> {
        let host = || target.host.clone();
        let addresses = target.addresses().await?;
        if addresses.is_empty() || !self.admits_all(&addresses).await {
            return Err(OutsideError::NotPublic { host: host() });
        }
        let name = target.host.clone();
        // Reads the host's roots of trust.
        let client = tokio::task::spawn_blocking(move || client(&name, &addresses)).await;
        let unreachable = |source| OutsideError::Unreachable {
            host: host(),
            source,
        };
        let client = client
            .map_err(|_| OutsideError::TimedOut)?
            .map_err(unreachable)?;
        client
            .get(target.url.clone())
            .send()
            .await
            .map_err(unreachable)
    }

    async fn admits_all(&self, addresses: &[SocketAddr]) -> bool {
        for found in addresses {
            if !(self.admits)(found.ip()) || (self.is_own)(found.ip()).await {
                return false;
            }
        }
        true
    }

    async fn read(&self, mut response: Response, host: &str) -> Result<Vec<u8>, OutsideError> {
        let limit = self.max_document_bytes;
        let mut document = Vec::new();
        loop {
            let chunk = response
                .chunk()
                .await
                .map_err(|source| OutsideError::Unreachable {
                    host: host.to_owned(),
                    source,
                })?;
            let Some(chunk) = chunk else {
                return Ok(document);
            };
            if document.len() + chunk.len() > limit {
                return Err(OutsideError::TooLarge { limit });
            }
            document.extend_from_slice(&chunk);
        }
    }
}

fn client(host: &str, addresses: &[SocketAddr]) -> Result<Client, reqwest::Error> {
    // Only the first call of a process has an effect; whoever was first chose the same provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder()
        .user_agent(concat!("volantd/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .redirect(Policy::none())
        .resolve_to_addrs(host, addresses)
        .build()
}

/// An address of the web, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    url: Url,
    host: String,
    port: u16,
}

impl Target {
    fn of(url: Option<Url>, shown: &str) -> Result<Self, OutsideError> {
        let parts = url.and_then(|url| {
            let is_web = matches!(url.scheme(), "http" | "https");
            let is_plain = url.username().is_empty() && url.password().is_none();
            let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
            (is_web && is_plain).then_some(Self { url, host, port })
        });
        parts.ok_or_else(|| OutsideError::Url {
            // What may be a password is not shown.
            url: shown.rsplit('@').next().unwrap_or_default().to_owned(),
        })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, OutsideError> {
        let literal = self.host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        match lookup_host((self.host.as_str(), self.port)).await {
            Ok(found) => Ok(found.collect()),
            Err(source) => Err(OutsideError::Name {
                host: self.host.clone(),
                source,
            }),
        }
    }

    /// Where a redirect leads.
    fn next(&self, response: &Response) -> Result<Self, OutsideError> {
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).unwrap_or("");
        let next = Self::of(self.url.join(location).ok(), location)?;
        if self.url.scheme() == "https" && next.url.scheme() != "https" {
            let host = self.host.clone();
            return Err(OutsideError::Redirects { host });
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
