//! Who may ask: the key, the name that the server was reached under, and the web pages that may use it. Reads no path and no body.
//!
//! Browsers let any page send requests to this machine. A page's own `Origin` must therefore be listed, letter for letter; and because a
//! page's name can be made to lead to this machine (DNS rebinding), so must the name in `Host`, unless it is `localhost` or an address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use common::guest_config::Secret;

use super::problem::HttpError;

/// The header of the Go system for the key, beside `Authorization: Bearer`.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// What a page that is listed may send.
const ALLOWED_METHODS: &str = "GET, POST, DELETE";
const ALLOWED_HEADERS: &str = "authorization, content-type, last-event-id, x-api-key";

/// What it may read beside the body.
const EXPOSED_HEADERS: &str = "location, retry-after";

/// How long a browser remembers that, in seconds.
const PREFLIGHT_AGE_S: &str = "600";

/// Who may ask.
#[derive(Debug, Default)]
pub struct Gate {
    /// What must be presented, if anything.
    pub key: Option<Secret>,
    /// Web pages that may ask, such as `https://builds.example.com`.
    pub origins: BTreeSet<String>,
    /// Names of the server beside `localhost`, in lower case.
    pub hosts: BTreeSet<String>,
}

/// What a request without a body looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
}

/// Whether a route wants the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It says nothing that is worth a key.
    Anybody,
    /// Only those who have it.
    WithKey,
}

impl Gate {
    /// Checks a request. `OPTIONS` needs no key: browsers send none with it, and it does nothing.
    pub(super) fn admit(&self, head: Head<'_>, access: Access) -> Result<(), HttpError> {
        self.check_host(head)?;
        if let Some(origin) = head.headers.get(header::ORIGIN)
            && !self.allows_origin(origin)
        {
            return Err(HttpError::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "Pages of this origin may not use fledge: name it in `--cors-origins`",
            ));
        }
        if access == Access::Anybody || head.method == Method::OPTIONS {
            return Ok(());
        }
        match &self.key {
            Some(key) if !presented(head.headers).is_some_and(|text| key.matches(text)) => {
                Err(HttpError::new(
                    StatusCode::UNAUTHORIZED,
                    "unauthorized",
                    "The API key is missing or wrong",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Lets a page that may ask read the answer.
    pub(super) fn open(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = request.get(header::ORIGIN) else {
            return;
        };
        if self.allows_origin(origin) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS),
                (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S),
            ] {
                answer.insert(name, HeaderValue::from_static(value));
            }
        }
    }

    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        origin
            .to_str()
            .is_ok_and(|origin| self.origins.contains(origin))
    }

    fn check_host(&self, head: Head<'_>) -> Result<(), HttpError> {
        let mut named = head.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return Err(HttpError::invalid(
                StatusCode::BAD_REQUEST,
                "The request does not say in one `Host` header whom it is for",
            ));
        };
        let host = host.to_str().ok().and_then(without_port);
        let target = head.uri.host();
        if host.is_some_and(|host| self.knows(host)) && target.is_none_or(|host| self.knows(host)) {
            return Ok(());
        }
        Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "fledge does not go by the name in `Host`: use an address, or name it in `--hosts`",
        ))
    }

    fn knows(&self, host: &str) -> bool {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host).to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// The key in a request. The scheme's letters may be large or small (RFC 9110 §11.1).
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get(KEY_HEADER) {
        return key.to_str().ok().map(str::trim);
    }
    let (scheme, key) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// The host in `host:port`, where the port may be missing and the host may be an IPv6 address in brackets.
fn without_port(text: &str) -> Option<&str> {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (host.ends_with(']') || !host.contains(':')) => {
            Some(host)
        }
        Some(_) if text.starts_with('[') && text.ends_with(']') => Some(text),
        Some(_) => None,
        None => Some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate {
            key: Some(Secret::from_stored("the key".to_owned())),
            origins: BTreeSet::from(["http://localhost:3000".to_owned()]),
            hosts: BTreeSet::from(["builds.example.com".to_owned()]),
        }
    }

    /// The status of the refusal, 0 where there is none.
    fn status(gate: &Gate, method: &Method, uri: &str, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let head = Head {
            method,
            uri: &uri.parse().unwrap(),
            headers: &map,
        };
        let access = if uri.ends_with("healthz") {
            Access::Anybody
        } else {
            Access::WithKey
        };
        gate.admit(head, access)
            .map_or_else(|error| error.0.status, |()| 0)
    }

    #[test]
    fn the_key_is_taken_from_either_header() {
        let host = ("host", "127.0.0.1:7070");
        for (header, value, expected) in [
            ("x-api-key", "the key", 0),
            ("authorization", "Bearer the key", 0),
            ("authorization", "bearer  the key", 0),
            ("authorization", "the key", 401),
            ("authorization", "Basic the key", 401),
            ("x-api-key", "the kez", 401),
            ("x-api-key", "the key2", 401),
            ("x-api-key", "", 401),
            ("cookie", "the key", 401),
        ] {
            let found = status(&gate(), &Method::GET, "/", &[host, (header, value)]);
            assert_eq!(found, expected, "{header}: {value}");
        }
        // A wrong key is not made good by a right one elsewhere.
        let both = [
            host,
            ("x-api-key", "x"),
            ("authorization", "Bearer the key"),
        ];
        assert_eq!(status(&gate(), &Method::GET, "/", &both), 401);
        assert_eq!(status(&gate(), &Method::GET, "/v1/healthz", &[host]), 0);
        assert_eq!(status(&gate(), &Method::OPTIONS, "/", &[host]), 0);
        assert_eq!(status(&Gate::default(), &Method::POST, "/", &[host]), 0);
    }

    #[test]
    fn a_name_must_be_known() {
        for (host, expected) in [
            ("localhost", 0),
            ("LOCALHOST:7070", 0),
            ("127.0.0.1", 0),
            ("192.0.2.1:7070", 0),
            ("[::1]:7070", 0),
            ("[::1]", 0),
            ("Builds.Example.com:443", 0),
            ("localhost.evil.example", 403),
            ("evil.example:7070", 403),
            ("127.0.0.1.evil.example", 403),
            ("::1", 403),
            ("localhost:7070:7070", 403),
            ("localhost:http", 403),
            ("", 403),
        ] {
            let headers = [("host", host), ("x-api-key", "the key")];
            assert_eq!(
                status(&gate(), &Method::GET, "/", &headers),
                expected,
                "{host}"
            );
        }
        let key = ("x-api-key", "the key");
        assert_eq!(status(&gate(), &Method::GET, "/", &[key]), 400);
        let two = [("host", "localhost"), ("host", "evil.example"), key];
        assert_eq!(status(&gate(), &Method::GET, "/", &two), 400);
        let target = "http://evil.example/";
        let headers = [("host", "localhost"), key];
        assert_eq!(status(&gate(), &Method::GET, target, &headers), 403);
    }

    #[test]
    fn an_origin_must_be_listed_letter_for_letter() {
        for (origin, expected) in [
            ("http://localhost:3000", 0),
            ("http://localhost:30001", 403),
            ("http://localhost", 403),
            ("http://localhost:3000.evil.example", 403),
            ("https://localhost:3000", 403),
            ("null", 403),
            ("", 403),
        ] {
            let headers = [
                ("host", "localhost"),
                ("origin", origin),
                ("x-api-key", "the key"),
            ];
            assert_eq!(
                status(&gate(), &Method::POST, "/", &headers),
                expected,
                "{origin}"
            );
            assert_eq!(
                status(&gate(), &Method::OPTIONS, "/", &headers),
                expected,
                "{origin}"
            );
        }
    }
}
