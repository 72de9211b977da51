//! A volantd behind TLS: whom volar trusts, and where the token goes.

use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificate::{Authority, Identity};
use crate::fake::{Ran, Server, command, write};

/// Takes TCP connections and gives those that can shake hands.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust us goes away here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

fn vms() -> Router {
    Router::new()
        .route("/api/v1/vms", get(async || Json(json!([]))))
        .merge(crate::guest::exec_router())
}

fn serve(identity: Identity) -> Server {
    let Identity { certificate, key } = identity;
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())
            .unwrap();
    Server::tls(vms(), |tcp| TlsListener {
        tcp,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    })
}

const FAR: &str = "20991231235959Z";

#[test]
fn a_context_says_who_vouches_for_its_daemon() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let server = serve(ours.sign(FAR));
    let home = tempfile::tempdir().unwrap();
    let ca = write(home.path(), "ours.pem", &ours.pem());
    let wrong = write(home.path(), "other.pem", &other.pem());
    let token = write(home.path(), "token", "s3cret");
    let volar = |words: &[&str]| {
        let mut command = command();
        command.env("HOME", home.path()).args(words);
        Ran(command.output().unwrap())
    };
    let add = [
        "context",
        "add",
        "lab",
        "--api",
        &server.url,
        "--token-file",
        &token,
        "--use",
    ];
    volar(&[&add[..], &["--ca-file", &ca]].concat()).exits(0);
    volar(&["vms", "list"]).exits(0).prints("No VMs\n");
    assert_eq!(server.seen.all(), ["GET /api/v1/vms with s3cret"]);
    volar(&["context", "show"]).exits(0);
    assert!(
        volar(&["context", "show", "-o", "json"])
            .out()
            .contains(&ca)
    );
    // A WebSocket goes the same way.
    volar(&["exec", "web", "--", "both"]).exits(7);

    // The flag goes before the context, and nothing is said to whom nobody vouches for.
    let asked = server.seen.all().len();
    volar(&["--ca-file", &wrong, "vms", "list"])
        .exits(5)
        .says(&format!(
            "The certificate of {} cannot be trusted",
            server.url
        ))
        .says("No authority that is trusted has signed it")
        .says("--ca-file");
    volar(&add).exits(0);
    volar(&["vms", "list"])
        .exits(5)
        .says("No authority that is trusted has signed it");
    assert_eq!(server.seen.all().len(), asked);
    volar(&["--ca-file", &token, "vms", "list"])
        .exits(1)
        .says("The CA file from --ca-file holds no certificates");
    volar(&["--ca-file", "/nonexistent", "vms", "list"])
        .exits(1)
        .says("The CA file from --ca-file cannot be read");
}

#[test]
fn a_certificate_must_be_valid_for_the_host() {
    let authority = Authority::new("ours");
    let old = serve(authority.sign("20200101000000Z"));
    let ca = write(old.dir.path(), "ca.pem", &authority.pem());
    old.volar(&["vms", "list", "--ca-file", &ca])
        .exits(5)
        .says("It has expired");
    let server = serve(authority.sign(FAR));
    let other = server.url.replace("127.0.0.1", "127.0.0.2");
    let by_name = server.url.replace("127.0.0.1", "localhost");
    for (url, code) in [(other, 5), (by_name, 0)] {
        let mut command = command();
        command.args(["--api", &url, "--ca-file", &ca, "vms", "list"]);
        Ran(command.output().unwrap()).exits(code);
    }
}

#[test]
fn a_token_never_goes_over_plain_http_to_another_host() {
    let dir = tempfile::tempdir().unwrap();
    let token = write(dir.path(), "token", "s3cret");
    // An address for documentation (RFC 5737): nobody is there, and nobody is asked.
    let words = ["--api", "http://192.0.2.1:7777", "vms", "list"];
    let refused = [
        Ran(command()
            .args(words)
            .args(["--token-file", &token])
            .output()
            .unwrap()),
        Ran(command()
            .args(words)
            .env("VOLANT_API_KEY", "s3cret")
            .output()
            .unwrap()),
    ];
    for ran in refused {
        let ran = ran
            .exits(1)
            .says("The token is not sent to http://192.0.2.1:7777, because plain http would show it on the way")
            .says("use https");
        assert!(!ran.err().contains("s3cret"), "{ran:?}");
    }
}
