//! `/v1/*` for the workload: the same request with `/v1` removed, streamed both ways, upgrades (WebSocket) included.
//!
//! It needs no secret, as in the Go system: it does to the workload what the workload lets anybody do. That includes a workload that
//! listens on 127.0.0.1 only. Nothing is buffered, retried or redirected.

use common::agent::hop::{HOP_BY_HOP, connection_options, names_upgrade};
use common::manifest::BaseUrl;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;

use super::body::{AgentBody, problem};
use crate::http_client::{authority, connect, send};

/// What is removed from the path.
pub(super) const PREFIX: &str = "/v1";

/// Passes a request on, and the workload's answer back.
pub(super) async fn forward(
    base: Option<&BaseUrl>,
    mut request: Request<Incoming>,
) -> Response<AgentBody> {
    let Some(base) = base else {
        let detail = "The workload serves no HTTP: its manifest gives no base_url";
        return bad_gateway(detail);
    };
    let Some(uri) = workload_uri(base, request.uri()) else {
        let detail = "The path cannot be joined to the workload's base_url";
        return problem(StatusCode::BAD_REQUEST, "invalid-request", detail);
    };
    let upgrade = wanted_upgrade(request.headers());
    let client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    remove_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = &upgrade {
        set_upgrade(&mut parts.headers, protocol.clone());
    }
    if let Ok(host) = HeaderValue::try_from(authority(base)) {
        parts.headers.insert(HOST, host);
    }

    let stream = match connect(&base.host, base.port).await {
        Ok(stream) => stream,
        Err(error) => {
            let place = authority(base);
            return bad_gateway(&format!("The workload does not answer at {place}: {error}"));
        }
    };
    match send(stream, Request::from_parts(parts, body)).await {
        Ok(response) => back(response, client),
        Err(error) => {
            let place = authority(base);
            bad_gateway(&format!("The workload at {place} gave no answer: {error}"))
        }
    }
}

fn back(
    mut response: Response<Incoming>,
    client: Option<hyper::upgrade::OnUpgrade>,
) -> Response<AgentBody> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned();
    if switched {
        let Some(client) = client else {
            return bad_gateway("The workload switched protocols without being asked");
        };
        let workload = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(client), Ok(workload)) = tokio::join!(client, workload) {
                let (mut client, mut workload) = (TokioIo::new(client), TokioIo::new(workload));
                // Either end may break off; the other then sees the end too.
                drop(tokio::io::copy_bidirectional(&mut client, &mut workload).await);
            }
        });
    }
    let (mut parts, body) = response.into_parts();
    parts.extensions.clear();
    remove_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = protocol.filter(|_| switched) {
        set_upgrade(&mut parts.headers, protocol);
    }
    Response::from_parts(parts, AgentBody::Workload(body))
}

fn bad_gateway(detail: &str) -> Response<AgentBody> {
    problem(StatusCode::BAD_GATEWAY, "workload-unreachable", detail)
}

/// The path below `/v1`, joined to the path of `base`, with the query as it was.
fn workload_uri(base: &BaseUrl, uri: &Uri) -> Option<Uri> {
    let rest = uri.path().strip_prefix(PREFIX)?;
    let rest = if rest.is_empty() { "/" } else { rest };
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let path: PathAndQuery = format!("{}{rest}{query}", base.path).parse().ok()?;
    Some(path.into())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(connection(headers))
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The protocol to change to, if `Connection` names `Upgrade` (RFC 9110 §7.8).
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_named = names_upgrade(connection(headers));
    headers.get(UPGRADE).filter(|_| is_named).cloned()
}

fn connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok())
}

/// Announces the change to `protocol`.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined() {
        let base = |path: &str| BaseUrl {
            host: "127.0.0.1".to_owned(),
            port: 80,
            path: path.to_owned(),
        };
        let table = [
            ("", "/v1", "/"),
            ("", "/v1/", "/"),
            ("", "/v1?x=1", "/?x=1"),
            ("", "/v1/a/b?c=d&e=%20", "/a/b?c=d&e=%20"),
            ("/api", "/v1/a", "/api/a"),
            ("/api", "/v1", "/api/"),
            ("", "/v1/v1/a", "/v1/a"),
            ("", "/v1//a/../b", "//a/../b"),
        ];
        for (path, asked, expected) in table {
            let found = workload_uri(&base(path), &asked.parse().unwrap()).unwrap();
            assert_eq!(found.to_string(), expected, "{path} {asked}");
        }
    }

    #[test]
    fn fields_of_one_connection_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "close"),
            ("upgrade", "h2c"),
            ("accept", "text/html"),
            ("x-kept", "1"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "x-kept"]);
    }

    #[test]
    fn an_upgrade_is_wanted_only_if_connection_names_it() {
        let table = [
            (
                &[
                    ("connection", "keep-alive, Upgrade"),
                    ("upgrade", "websocket"),
                ][..],
                true,
            ),
            (
                &[("connection", "keep-alive"), ("upgrade", "websocket")][..],
                false,
            ),
            (&[("connection", "upgrade")][..], false),
            (&[][..], false),
        ];
        for (fields, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            assert_eq!(wanted_upgrade(&headers).is_some(), expected, "{fields:?}");
        }
    }
}
