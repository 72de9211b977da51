//! Lets in what may come over TCP, and lets pages that may use the API read its answers (CORS). Who that is, `access` decides.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::HttpError;
use crate::access::{Access, Page};

/// What a page that is listed may send.
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
const ALLOWED_HEADERS: &str = "content-type, authorization, x-requested-with, x-volant-api-key, if-match, \
     idempotency-key, last-event-id, x-request-id, traceparent, tracestate";

/// What it may read beside the body.
const EXPOSED_HEADERS: &str = "content-type, x-total-count, etag, retry-after, x-request-id";

/// How long a browser remembers that, in seconds.
const PREFLIGHT_AGE_S: &str = "600";

pub(super) async fn check(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    let page = match admit(&access, &request) {
        Ok(page) => page,
        Err(refusal) => return refusal.into_response(),
    };
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asks_before = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match page {
        // What a browser asks before a request needs no token, and does nothing.
        Some(_) if asks_before => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let answer = response.headers_mut();
    answer.append(header::VARY, HeaderValue::from_static("origin"));
    if let (Some(page), Some(origin)) = (page, origin) {
        open(answer, page, origin);
    }
    response
}

/// The page that asks, if it is one.
fn admit(access: &Access, request: &Request) -> Result<Option<Page>, HttpError> {
    let forbidden = |detail: &str, hint: &str| {
        let mut problem = HttpError::plain(StatusCode::FORBIDDEN, "forbidden", detail);
        problem.0.hints = vec![hint.to_owned()];
        problem
    };
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // Without an address nothing can be said for it; the listener gives one with each connection.
    let admitted = peer.map_or(access.networks.is_empty(), |peer| {
        access.admits(peer.0.ip())
    });
    if !admitted {
        return Err(forbidden(
            "Clients of this network may not use the API",
            "`api_allow_cidr` in volantd's configuration names the networks that may",
        ));
    }
    let headers = request.headers();
    let mut named = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else {
        return Err(HttpError::plain(
            StatusCode::BAD_REQUEST,
            "invalid-request",
            "The request does not say in one `Host` header whom it is for",
        ));
    };
    let host = host.to_str().unwrap_or_default();
    let target = request.uri().host();
    if !access.knows(host) || !target.is_none_or(|target| access.knows(target)) {
        return Err(forbidden(
            "This host does not go by the name in `Host`",
            "Use its address, or name it in `api_hosts` of volantd's configuration",
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(None);
    };
    let page = access.page(origin.to_str().unwrap_or_default(), host);
    page.map(Some).ok_or_else(|| {
        forbidden(
            "Pages of this origin may not use the API",
            "`cors_origins` in volantd's configuration names those that may",
        )
    })
}

/// Lets a page read the answer. One that is listed may send what the browser knows about the user; with `*` none may.
fn open(answer: &mut HeaderMap, page: Page, origin: HeaderValue) {
    if page == Page::Own {
        return;
    }
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if page == Page::Listed {
        let yes = HeaderValue::from_static("true");
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE_S),
    ] {
        answer.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;
    use crate::access::Origins;

    async fn answer(access: Access, method: &str, headers: &[(&str, &str)]) -> Response {
        let router: Router = Router::new()
            .route("/", get(async || "hello").post(async || "done"))
            .layer(from_fn_with_state(Arc::new(access), check));
        let mut request = axum::http::Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let request = request.extension(ConnectInfo(peer)).body(Body::empty());
        router.oneshot(request.unwrap()).await.unwrap()
    }

    fn listed() -> Access {
        Access {
            origins: Origins::Listed(BTreeSet::from(["https://ui.example.com".to_owned()])),
            ..Access::default()
        }
    }

    #[tokio::test]
    async fn foreign_names_pages_and_networks_are_refused() {
        let host = ("host", "127.0.0.1:7777");
        let table: [(&[(&str, &str)], u16); 8] = [
            (&[host], 200),
            (&[("host", "evil.example.com")], 403),
            (&[], 400),
            (&[host, host], 400),
            (&[host, ("origin", "https://evil.example.com")], 403),
            (&[host, ("origin", "null")], 403),
            (&[host, ("origin", "https://ui.example.com")], 200),
            (&[host, ("origin", "http://127.0.0.1:7777")], 200),
        ];
        for (headers, status) in table {
            let answer = answer(listed(), "POST", headers).await;
            assert_eq!(answer.status().as_u16(), status, "{headers:?}");
        }
        let elsewhere = Access {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..Access::default()
        };
        assert_eq!(answer(elsewhere, "GET", &[host]).await.status(), 403);
    }

    #[tokio::test]
    async fn a_listed_page_may_ask_before_and_read() {
        let headers = [
            ("host", "localhost"),
            ("origin", "https://ui.example.com"),
            ("access-control-request-method", "PATCH"),
        ];
        let before = answer(listed(), "OPTIONS", &headers).await;
        assert_eq!(before.status(), 204);
        let allowed = &before.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN];
        assert_eq!(allowed, "https://ui.example.com");
        let any = Access {
            origins: Origins::Any,
            ..Access::default()
        };
        let read = answer(any, "GET", &headers).await;
        let credentials = header::ACCESS_CONTROL_ALLOW_CREDENTIALS;
        assert!(before.headers().contains_key(&credentials));
        assert!(!read.headers().contains_key(&credentials));
        assert_eq!(read.headers()[header::VARY], "origin");
    }
}
