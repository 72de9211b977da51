//! Messages of a session on its connection: a header and a payload, as [`common::agent::session`] has them. Knows no command.

use std::io;

use common::agent::session::{Channel, HEADER_BYTES, InvalidHeader, header, parse_header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The host is gone, or the connection broke.
    #[error("The connection has ended")]
    Gone(#[source] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Header(#[from] InvalidHeader),
}

/// Reads one message. Must not be dropped halfway.
pub(super) async fn read<R>(from: &mut R) -> Result<(Channel, Vec<u8>), FrameError>
where
    R: AsyncRead + Unpin,
{
    let mut head = [0; HEADER_BYTES];
    from.read_exact(&mut head).await.map_err(FrameError::Gone)?;
    let (channel, length) = parse_header(head)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)
        .await
        .map_err(FrameError::Gone)?;
    Ok((channel, payload))
}

/// Writes one message, all of it in one piece.
pub(super) async fn write<W>(to: &mut W, channel: Channel, payload: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let head = header(channel, payload.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(HEADER_BYTES + payload.len());
    message.extend_from_slice(&head);
    message.extend_from_slice(payload);
    to.write_all(&message).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use common::agent::session::MAX_PAYLOAD_BYTES;
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_sent(bytes in "[\\x00-\\x04\\x10-\\x14]\\x00{3}[\\x00-\\x05][a-z]{0,6}") {
            let (mut rest, mut again) = (bytes.as_bytes(), Vec::new());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                while let Ok((channel, payload)) = read(&mut rest).await {
                    write(&mut again, channel, &payload).await.unwrap();
                }
            });
            prop_assert!(bytes.as_bytes().starts_with(&again));
        }
    }

    /// What the fuzzer begins with, and what it once found: see CONTRIBUTING.md.
    #[tokio::test]
    async fn the_corpus_has_messages() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/session");
        let mut count = 0;
        for entry in fs_err::read_dir(corpus).unwrap() {
            let bytes = fs_err::read(entry.unwrap().path()).unwrap();
            let mut rest = bytes.as_slice();
            while read(&mut rest).await.is_ok() {
                count += 1;
            }
        }
        assert!(count >= 6, "{count}");
    }

    #[tokio::test]
    async fn messages_come_back() {
        for payload in [vec![], vec![7], vec![1; MAX_PAYLOAD_BYTES]] {
            let mut wire = Vec::new();
            write(&mut wire, Channel::Stderr, &payload).await.unwrap();
            let (channel, found) = read(&mut wire.as_slice()).await.unwrap();
            assert_eq!((channel, found), (Channel::Stderr, payload));
        }
        let long = vec![0; MAX_PAYLOAD_BYTES + 1];
        assert!(
            write(&mut Vec::new(), Channel::Stdout, &long)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_and_what_is_cut_is_an_end() {
        let table: [(&[u8], bool); 5] = [
            (&[], true),
            (&[0, 0, 0], true),
            (&[0, 0, 0, 0, 2, b'x'], true),
            (&[99, 0, 0, 0, 0], false),
            (&[0, 255, 255, 255, 255], false),
        ];
        for (mut wire, is_end) in table {
            let error = read(&mut wire).await.unwrap_err();
            assert_eq!(matches!(error, FrameError::Gone(_)), is_end, "{error}");
        }
    }
}
