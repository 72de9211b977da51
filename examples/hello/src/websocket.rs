//! A WebSocket (RFC 6455) that answers each message with itself. No extension, no subprotocol, no message put together: what comes
//! in pieces goes back in pieces.

mod accept;

use std::io::{self, Read, Write};

/// The largest frame that is echoed. A two-byte length says no more (RFC 6455 §5.2).
const MAX_FRAME_BYTES: usize = 65_535;

/// The lengths that a second byte can say itself; 126 stands for two more bytes, 127 for eight.
const MAX_SHORT_BYTES: u8 = 125;

/// Marks the frames of a client, which are all masked, in the second byte.
const MASKED: u8 = 0x80;

/// The last piece of a message, in the first byte.
const LAST: u8 = 0x80;

/// Operation codes, the low half of the first byte.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The status of a close because of a message that is too big (RFC 6455 §7.4.1).
const TOO_BIG: u16 = 1009;

/// The head that a request for a WebSocket is answered with; nothing if it is none (RFC 6455 §4.2.1).
pub(crate) fn welcome(request_head: &str) -> Option<String> {
    let has_word = |name: &str, word: &str| {
        header(request_head, name).is_some_and(|value| {
            let mut words = value.split(',');
            words.any(|one| one.trim().eq_ignore_ascii_case(word))
        })
    };
    let is_one = has_word("upgrade", "websocket")
        && has_word("connection", "upgrade")
        && has_word("sec-websocket-version", "13");
    let key = header(request_head, "sec-websocket-key").filter(|_| is_one)?;
    let accept = accept::of(key);
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    ))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (this, value) = line.split_once(':')?;
        this.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Echoes until the client closes or breaks the rules.
pub(crate) fn echo(stream: &mut (impl Read + Write)) -> io::Result<()> {
    loop {
        let frame = match Frame::read(stream) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Frame::new(LAST | CLOSE, TOO_BIG.to_be_bytes().to_vec()).write(stream);
            }
            other => other?,
        };
        match frame.first & 0x0f {
            CONTINUATION | TEXT | BINARY => frame.write(stream)?,
            CLOSE => return frame.write(stream),
            PING => Frame::new(LAST | PONG, frame.payload).write(stream)?,
            PONG => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A piece of a message.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// Whether it is the last piece, and its operation code.
    first: u8,
    payload: Vec<u8>,
}

impl Frame {
    const fn new(first: u8, payload: Vec<u8>) -> Self {
        Self { first, payload }
    }

    /// Reads a client's.
    fn read(stream: &mut impl Read) -> io::Result<Self> {
        let [first, second] = bytes(stream)?;
        if second & MASKED == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = match second & !MASKED {
            127 => u64::from_be_bytes(bytes(stream)?),
            126 => u16::from_be_bytes(bytes(stream)?).into(),
            short => short.into(),
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_FRAME_BYTES)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        let mask: [u8; 4] = bytes(stream)?;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= key;
        }
        Ok(Self { first, payload })
    }

    /// Writes it as a server does: without a mask.
    fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut frame = vec![self.first];
        match u8::try_from(self.payload.len()) {
            Ok(length) if length <= MAX_SHORT_BYTES => frame.push(length),
            _ => {
                let length = u16::try_from(self.payload.len())
                    .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
                frame.push(126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(&self.payload);
        stream.write_all(&frame)
    }
}

fn bytes<const COUNT: usize>(stream: &mut impl Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection: what a client sent, and what it gets.
    struct Wire<'a> {
        sent: &'a [u8],
        got: Vec<u8>,
    }

    impl Read for Wire<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.sent.read(buffer)
        }
    }

    impl Write for Wire<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.got.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn echoed(sent: &[u8]) -> (io::Result<()>, Vec<u8>) {
        let got = Vec::new();
        let mut wire = Wire { sent, got };
        let result = echo(&mut wire);
        (result, wire.got)
    }

    /// The masked `Hello` of RFC 6455 §5.7.
    const HELLO: [u8; 11] = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];

    #[test]
    fn messages_come_back_until_the_close() {
        let mut sent = HELLO.to_vec();
        // A ping, a pong and a close, each masked with nothing.
        sent.extend([0x89, 0x81, 0, 0, 0, 0, b'p']);
        sent.extend([0x8a, 0x80, 0, 0, 0, 0]);
        sent.extend([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        let (result, got) = echoed(&sent);
        assert!(result.is_ok(), "{result:?}");
        let expected = b"\x81\x05Hello\x8a\x01p\x88\x02\x03\xe8";
        assert_eq!(got, expected);
    }

    #[test]
    fn long_messages_come_back_and_longer_ones_close() {
        let mut sent = vec![0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0];
        sent.extend(vec![7; MAX_FRAME_BYTES]);
        sent.extend([0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
        let (result, got) = echoed(&sent);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(got.get(..5), Some(&[0x82, 126, 0xff, 0xff, 7][..]));
        assert!(got.ends_with(&[7, 0x88, 2, 0x03, 0xf1]));
    }

    #[test]
    fn what_breaks_the_rules_ends_it() {
        // Not masked, of no known kind, cut off.
        for sent in [&[0x81, 0x00][..], &[0x83, 0x80, 0, 0, 0, 0], &HELLO[..9]] {
            let (result, got) = echoed(sent);
            assert!(result.is_err() && got.is_empty(), "{sent:?}");
        }
    }

    #[test]
    fn only_a_request_for_it_is_welcome() {
        let head = "GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let answer = welcome(head).unwrap();
        // The key and its answer are from RFC 6455 §1.3.
        assert!(
            answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{answer}"
        );
        for part in [
            "keep-alive, Upgrade",
            "WebSocket\r\n",
            "13",
            "Sec-WebSocket-Key",
        ] {
            assert_eq!(welcome(&head.replace(part, "x")), None, "{part}");
        }
    }
}
