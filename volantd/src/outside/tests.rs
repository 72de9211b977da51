//! Fetching, with a server on loopback that only a test admits.

use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Redirect;
use axum::routing::get;
use tokio::net::TcpListener;

use super::*;

/// The largest document.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Lets everything through but the address that tests redirect to.
const LENIENT: Outside = Outside {
    admits: |address| address != IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
    is_own: |_| Box::pin(std::future::ready(false)),
    max_document_bytes: MAX_DOCUMENT_BYTES,
};

async fn server() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let inside = format!("http://127.0.0.2:{}/document", address.port());
    let router = Router::new()
        .route("/document", get(async || "openapi: 3.1.0"))
        .route("/moved", get(async || Redirect::temporary("/document")))
        .route("/loop", get(async || Redirect::temporary("/loop")))
        .route(
            "/file",
            get(async || Redirect::temporary("file:///etc/passwd")),
        )
        .route("/inside", get(async move || Redirect::temporary(&inside)))
        .route("/large", get(async || vec![b'x'; MAX_DOCUMENT_BYTES + 1]))
        .route("/full", get(async || vec![b'x'; MAX_DOCUMENT_BYTES]))
        .route("/no", get(async || (StatusCode::FORBIDDEN, Body::empty())));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

#[tokio::test]
async fn documents_come_and_redirects_are_followed_but_not_inside() {
    let server = server().await;
    let fetch = async |path: &str| {
        let fetched = LENIENT.fetch(&format!("{server}{path}")).await;
        fetched.map_err(|error| error.to_string())
    };
    assert_eq!(fetch("/document").await.unwrap(), b"openapi: 3.1.0");
    assert_eq!(fetch("/moved").await.unwrap(), b"openapi: 3.1.0");
    assert_eq!(fetch("/full").await.unwrap().len(), MAX_DOCUMENT_BYTES);
    let table = [
        ("/inside", "`127.0.0.2` is not on the public Internet"),
        ("/file", "`file:///etc/passwd` is not an address"),
        ("/loop", "redirects too often"),
        ("/large", "larger than 1048576 bytes"),
        ("/no", "HTTP status 403"),
    ];
    for (path, expected) in table {
        let error = fetch(path).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn what_is_inside_is_not_asked() {
    let server = server().await;
    let port = server.rsplit(':').next().unwrap();
    let outside = Outside::new(MAX_DOCUMENT_BYTES);
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "2130706433",
        "0x7f.1",
        "0",
        "169.254.169.254",
    ] {
        let error = outside
            .fetch(&format!("http://{host}:{port}/document"))
            .await
            .unwrap_err();
        assert!(
            matches!(error, OutsideError::NotPublic { .. }),
            "{host}: {error}"
        );
    }
}

#[tokio::test]
async fn a_public_address_of_this_host_is_not_asked() {
    let server = server().await;
    let outside = Outside {
        is_own: own::is_own,
        ..LENIENT
    };
    let error = outside
        .fetch(&format!("{server}/document"))
        .await
        .unwrap_err();
    assert!(matches!(error, OutsideError::NotPublic { .. }), "{error}");
}

#[tokio::test]
async fn only_addresses_of_the_web_are_taken() {
    let outside = Outside::new(MAX_DOCUMENT_BYTES);
    for url in [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.org/x",
        "unix:///run/x",
        "http://",
        "https://name:word@example.org/x",
    ] {
        let error = outside.fetch(url).await.unwrap_err();
        assert!(matches!(error, OutsideError::Url { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("word"), "{error}");
    }
}
