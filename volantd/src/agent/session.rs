//! Messages of a session on the agent's connection: a header and a payload, as [`common::agent::session`] has them. Checks their form
//! and direction; what they say is passed on.

use std::io;

use common::agent::session::{Channel, HEADER_BYTES, InvalidHeader, header, parse_header};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why a guest's next message is not there.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection ended before the session did.
    #[error("The guest broke the session off")]
    Gone(#[source] io::Error),
    /// What came is no message.
    #[error("The guest's agent breaks the protocol of sessions")]
    Header(#[from] InvalidHeader),
    /// The guest sends what only the host may.
    #[error("The guest's agent sends a message that only the host may send")]
    Direction,
}

/// The guest's next message: its channel's byte and its payload, as they stand in a WebSocket message. Must not be dropped halfway.
///
/// # Errors
/// [`SessionError`].
pub async fn read_message<R>(from: &mut R) -> Result<(Channel, Vec<u8>), SessionError>
where
    R: AsyncRead + Unpin,
{
    let mut head = [0; HEADER_BYTES];
    from.read_exact(&mut head)
        .await
        .map_err(SessionError::Gone)?;
    let (channel, length) = parse_header(head)?;
    if channel.is_from_host() {
        return Err(SessionError::Direction);
    }
    let mut message = vec![0; length + 1];
    if let Some((byte, payload)) = message.split_first_mut() {
        *byte = channel.byte();
        from.read_exact(payload).await.map_err(SessionError::Gone)?;
    }
    Ok((channel, message))
}

/// Sends the guest a message that is a WebSocket message's: the channel's byte and the payload.
///
/// # Errors
/// Of the connection; or [`io::ErrorKind::InvalidInput`] if it is no message of a host, of which nothing is sent.
pub async fn write_message<W>(to: &mut W, message: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let (channel, payload) = message
        .split_first()
        .and_then(|(byte, payload)| Some((Channel::of(*byte)?, payload)))
        .filter(|(channel, _)| channel.is_from_host())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let head = header(channel, payload.len()).ok_or(io::ErrorKind::InvalidInput)?;
    to.write_all(&head).await?;
    to.write_all(payload).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use common::agent::session::MAX_PAYLOAD_BYTES;

    use super::*;

    #[tokio::test]
    async fn a_guest_may_send_only_what_guests_send() {
        type Case<'a> = (&'a [u8], Result<&'a [u8], &'a str>);
        let table: [Case<'_>; 6] = [
            (&[16, 0, 0, 0, 2, b'h', b'i'], Ok(&[16, b'h', b'i'])),
            (&[16, 0, 0, 0, 0], Ok(&[16])),
            (&[16, 0, 0, 0, 2, b'h'], Err("broke the session off")),
            (&[1, 0, 0, 0, 1, b'x'], Err("only the host may send")),
            (&[99, 0, 0, 0, 0], Err("breaks the protocol")),
            (&[16, 255, 0, 0, 0], Err("breaks the protocol")),
        ];
        for (mut wire, expected) in table {
            match (read_message(&mut wire).await, expected) {
                (Ok((channel, message)), Ok(expected)) => {
                    assert_eq!((channel, message.as_slice()), (Channel::Stdout, expected));
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (found, _) => panic!("{wire:?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn only_messages_of_a_host_are_sent() {
        let mut wire = Vec::new();
        write_message(&mut wire, &[1, b'h', b'i']).await.unwrap();
        assert_eq!(wire, [1, 0, 0, 0, 2, b'h', b'i']);
        let long = vec![1; MAX_PAYLOAD_BYTES + 2];
        for refused in [&[][..], &[16, 0][..], &[200][..], &long] {
            let mut wire = Vec::new();
            let error = write_message(&mut wire, refused).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(wire.is_empty());
        }
    }
}
