//! A WebSocket client of few lines (RFC 6455), for tests of routes that upgrade.

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A connected client.
#[derive(Debug)]
pub(super) struct Client(TcpStream);

impl Client {
    /// A client of a server that does `serve` with its connection.
    pub(super) async fn of<F, Serving>(serve: F) -> Self
    where
        F: FnOnce(WebSocket) -> Serving + Clone + Send + Sync + 'static,
        Serving: Future<Output = ()> + Send + 'static,
    {
        let route = get(move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(serve) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", route);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        Self(stream)
    }

    /// Sends one short message; opcode 1 is text, 2 binary.
    pub(super) async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        assert!(length < 126, "short ones alone");
        // The mask is zero, so the payload is as it is.
        let header = [0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
        self.0.write_all(&header).await.unwrap();
        self.0.write_all(payload).await.unwrap();
    }

    /// The next message with its opcode; 8 is the end, with its code and reason.
    pub(super) async fn next(&mut self) -> (u8, Vec<u8>) {
        let opcode = self.0.read_u8().await.unwrap() & 0x0f;
        let length = match self.0.read_u8().await.unwrap() {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.unwrap();
        (opcode, payload)
    }
}
