//! A client of volantd's unix socket on one connection that is kept: as much of HTTP/1.1 as volantd answers with, and one command run in a
//! guest. Neither chunks nor redirects, because volantd's JSON has neither.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::agent::session::{Channel, Exit, Start};
use serde_json::Value;

/// How long an answer, or a part of one, may take: longer than anything here makes volantd wait.
const PATIENCE: Duration = Duration::from_mins(1);
/// A WebSocket's first byte: the last frame of a message, which is binary (RFC 6455, 5.2).
const BINARY_FRAME: u8 = 0x82;
/// In a WebSocket's second byte: a mask follows, which is what clients must send (RFC 6455, 5.3).
const MASKED: u8 = 0x80;
/// The longest payload whose length is in the second byte itself (RFC 6455, 5.2).
const MAX_SHORT_FRAME: usize = 125;

/// One connection, with one request on it at a time.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

/// What a request was answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("No connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream })
    }

    /// Sends JSON, or nothing for null, and waits for the answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer has no length.
    pub(super) fn ask(&mut self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let fields = if body.is_null() {
            "\r\n".to_owned()
        } else {
            let body = body.to_string();
            let length = body.len();
            format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        self.send(method, path, &fields)?;
        let (status, length) = self.head()?;
        // 204 has neither a body nor the length of one (RFC 9110, 8.6).
        let length = if status == 204 { Some(0) } else { length };
        let mut body = vec![0; length.context("An answer without a length")?];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, body })
    }

    /// The body of what is there.
    ///
    /// # Errors
    /// Also when the answer is anything but 200.
    pub(super) fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let Answer { status, body } = self.ask("GET", path, &Value::Null)?;
        ensure!(
            status == 200,
            "GET {path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }

    /// A request that must succeed; JSON both ways.
    ///
    /// # Errors
    /// Also when the answer is no success.
    pub(super) fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let Answer { status, body } = self.ask(method, path, body)?;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// What comes behind the head of an answer that never ends.
    ///
    /// # Errors
    /// Also when the answer is anything but 200.
    pub(super) fn open(mut self, path: &str) -> Result<BufReader<UnixStream>> {
        self.send("GET", path, "\r\n")?;
        let (status, _) = self.head()?;
        ensure!(status == 200, "GET {path}: {status}");
        Ok(self.stream)
    }

    /// Runs a command in a VM; answers what it wrote to its standard output, and how it ended.
    ///
    /// # Errors
    /// When it cannot be run, or its session breaks.
    pub(super) fn exec(mut self, vm: &str, command: &[&str]) -> Result<(String, Exit)> {
        let path = format!("/ws/v1/vms/{vm}/exec");
        // Any 16 bytes in base64 will do for a key: what is answered to it is not looked at.
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        self.send("GET", &path, fields)?;
        let (status, _) = self.head()?;
        ensure!(status == 101, "GET {path}: {status}");
        let start = Start {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            ..Start::default()
        };
        let mut message = vec![Channel::Start.byte()];
        message.extend(serde_json::to_vec(&start)?);
        self.send_frame(&message)?;
        let mut output = String::new();
        loop {
            let message = self.frame()?;
            let (channel, payload) = message.split_first().context("An empty message")?;
            match Channel::of(*channel) {
                Some(Channel::Stdout) => output.push_str(&String::from_utf8_lossy(payload)),
                Some(Channel::Exit) => return Ok((output, serde_json::from_slice(payload)?)),
                other => anyhow::bail!(
                    "The command ended with {other:?}: {}",
                    String::from_utf8_lossy(payload)
                ),
            }
        }
    }

    fn send(&mut self, method: &str, path: &str, fields: &str) -> Result<()> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}");
        Ok(self.stream.get_mut().write_all(request.as_bytes())?)
    }

    /// The status of an answer, and how long its body is.
    fn head(&mut self) -> Result<(u16, Option<usize>)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("The answer began with {line:?}"))?;
        let mut length = None;
        while line.trim_end() != "" {
            line.clear();
            self.stream.read_line(&mut line)?;
            if let Some(("content-length", value)) = line.trim_end().split_once(": ") {
                length = Some(value.parse()?);
            }
        }
        Ok((status, length))
    }

    /// Sends a short message, masked with zeros, which leave it as it is.
    fn send_frame(&mut self, message: &[u8]) -> Result<()> {
        let length = u8::try_from(message.len())?;
        ensure!(message.len() <= MAX_SHORT_FRAME, "The command is too long");
        let mut frame = vec![BINARY_FRAME, MASKED | length, 0, 0, 0, 0];
        frame.extend(message);
        Ok(self.stream.get_mut().write_all(&frame)?)
    }

    /// A short message from volantd.
    fn frame(&mut self) -> Result<Vec<u8>> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let [kind, length] = head;
        ensure!(
            kind == BINARY_FRAME && usize::from(length) <= MAX_SHORT_FRAME,
            "A frame begins with {head:?}"
        );
        let mut message = vec![0; usize::from(length)];
        self.stream.read_exact(&mut message)?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A server that answers one connection with these bytes, whatever is asked; and a client of it.
    fn answered_with(bytes: &'static [u8]) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let _some = stream.read(&mut asked).unwrap();
            stream.write_all(bytes).unwrap();
            // Until the client has gone: what it did not read would be lost else.
            let _end = stream.read_to_end(&mut Vec::new());
        });
        let client = Client::connect(&socket).unwrap();
        (dir, client)
    }

    #[test]
    fn answers_are_read_one_by_one() {
        let (_dir, mut client) = answered_with(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 204 No Content\r\n\r\n\
              HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone",
        );
        assert_eq!(client.get("/").unwrap(), b"{}");
        let none = client.call("DELETE", "/", &Value::Null).unwrap();
        assert_eq!(none, Value::Null);
        let error = client.get("/").unwrap_err().to_string();
        assert_eq!(error, "GET /: 404 gone");
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for broken in [
            &b"SSH-2.0\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        ] {
            let (_dir, mut client) = answered_with(broken);
            assert!(client.get("/").is_err());
        }
    }

    #[test]
    fn a_command_is_run() {
        let (_dir, client) = answered_with(
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x03\x10hi\x82\x0b\x12{\"code\":3}",
        );
        let (output, exit) = client.exec("web", &["true"]).unwrap();
        assert_eq!((output.as_str(), exit.code), ("hi", 3));
        let (_dir, client) =
            answered_with(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x82\x05\x13dead");
        let error = client.exec("web", &["true"]).unwrap_err().to_string();
        assert!(error.contains("dead"), "{error}");
    }
}
