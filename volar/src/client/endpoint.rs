//! Where volantd is, as a value. Connects to nothing.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

/// A text that is not an address of the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Neither `http://` nor `unix://`.
    #[error("`{shown}` is not an API address: use unix:///path, http://host:port or https://host")]
    Form {
        /// The text, bounded and escaped.
        shown: String,
    },
    /// A password in a URL ends up in shell histories and process lists.
    #[error("The API address must not hold a user name or password: use --token-file")]
    Credentials,
}

/// Where volantd is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
    /// HTTP over TCP, plain or with TLS as a proxy before volantd speaks it. The path, if any, precedes every path of the API.
    Tcp(Url),
}

impl Endpoint {
    /// Whether it can only be this host.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(url) => {
                let host = url.host_str().unwrap_or_default();
                let address = host.trim_start_matches('[').trim_end_matches(']');
                host.eq_ignore_ascii_case("localhost")
                    || address
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// Whether it is reached through TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp(url) if url.scheme() == "https")
    }

    /// The scheme of its URLs.
    pub(super) fn scheme(&self) -> &str {
        match self {
            Self::Unix(_) => "http",
            Self::Tcp(url) => url.scheme(),
        }
    }

    /// The path that precedes every path of the API, without `/` at its end.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Unix(_) => "",
            Self::Tcp(url) => url.path().trim_end_matches('/'),
        }
    }

    /// What goes into the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            // The socket has no host name; volantd takes this one as its own.
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp(url) => {
                let host = url.host_str().unwrap_or_default();
                url.port()
                    .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let text = text.trim();
        let shown = || {
            text.chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect()
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(InvalidEndpoint::Form { shown: shown() })
            };
        }
        let url = Url::parse(text).map_err(|_| InvalidEndpoint::Form { shown: shown() })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidEndpoint::Credentials);
        }
        match url.scheme() {
            "http" | "https" if url.query().is_none() && url.fragment().is_none() => {
                Ok(Self::Tcp(url))
            }
            _ => Err(InvalidEndpoint::Form { shown: shown() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        let table = [
            ("unix:///run/v.sock", "unix:///run/v.sock", true),
            ("unix:/run/v.sock", "unix:///run/v.sock", true),
            ("http://127.0.0.1:7777", "http://127.0.0.1:7777", true),
            ("http://127.0.0.1:7777/", "http://127.0.0.1:7777", true),
            ("http://localhost:1", "http://localhost:1", true),
            ("http://[::1]:7777", "http://[::1]:7777", true),
            (" http://10.1.2.3:7777/p/ ", "http://10.1.2.3:7777/p", false),
            (
                "http://127.0.0.1.example.org",
                "http://127.0.0.1.example.org",
                false,
            ),
        ];
        for (text, shown, local) in table {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.is_local(), local, "{text}");
        }
    }

    #[test]
    fn a_path_precedes_those_of_the_api() {
        let endpoint: Endpoint = "http://h:1/a/b/".parse().unwrap();
        assert_eq!(
            (endpoint.prefix(), endpoint.authority().as_str()),
            ("/a/b", "h:1")
        );
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "127.0.0.1:7777",
            "unix://run/v.sock",
            "unix:",
            "ftp://h",
            "http://",
            "http://h?x=1",
            "/run/v.sock",
        ] {
            assert!(
                matches!(text.parse::<Endpoint>(), Err(InvalidEndpoint::Form { .. })),
                "{text}"
            );
        }
        let tls: Endpoint = "https://h/volant".parse().unwrap();
        assert!(tls.is_tls() && !tls.is_local());
        let error = "http://me:secret@h".parse::<Endpoint>().unwrap_err();
        assert_eq!(error, InvalidEndpoint::Credentials);
        assert!(!error.to_string().contains("secret"));
    }
}
