//! Makes key pairs and signatures, through the `minisign` crate. Does not ask for passwords, and writes no files.

use std::fmt;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign::{ErrorKind, KeyPair, PError, PublicKey, SecretKey, SecretKeyBox, SignatureBox};

use super::MAX_SIGNATURE_BYTES;

/// The longest trusted comment, in bytes: with it a signature stays well below [`MAX_SIGNATURE_BYTES`].
pub const MAX_COMMENT_BYTES: usize = 2048;
const _: () = assert!(MAX_COMMENT_BYTES < 4096 - 1024 && MAX_SIGNATURE_BYTES == 4096);

/// The longest password, in bytes: `minisign`'s own limit.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// The largest file with a secret key that is read, in bytes: a comment and 212 characters.
pub const MAX_SECRET_KEY_BYTES: u64 = 4096;

/// What a decoded secret key has (minisign's format): algorithms of signature, derivation and checksum of 2 bytes each, 32 of salt,
/// 8 and 8 of limits, 8 for the number, 64 for the key, 32 for the checksum.
const SECRET_KEY_BYTES: usize = 158;
const CHECKSUM_AT: usize = SECRET_KEY_BYTES - 32;
const ALGORITHM: &[u8] = b"Ed";

/// Says what a file is to whoever opens it. Not signed.
const SECRET_KEY_COMMENT: &str = "fledge secret key";
const SECRET_KEY_COMMENT_ENCRYPTED: &str = "fledge encrypted secret key";
const SIGNATURE_COMMENT: &str = "signature from fledge secret key";

/// A key that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key file is none.
    #[error("This is not a minisign secret key")]
    Format,
    /// It has a password, and none is given.
    #[error("The secret key has a password")]
    NoPassword,
    /// It has no password, and its checksum does not match.
    #[error("The secret key was damaged")]
    Damaged,
    /// The password is wrong.
    #[error("The password is wrong, or the secret key was damaged")]
    WrongPassword,
    /// The password is longer than [`MAX_PASSWORD_BYTES`].
    #[error("A password has at most {MAX_PASSWORD_BYTES} bytes")]
    LongPassword,
    /// The comment would not be read back.
    #[error("A trusted comment is one line of at most {MAX_COMMENT_BYTES} bytes")]
    Comment,
    /// The key cannot be made.
    #[error("Cannot make a key pair")]
    Generate(#[source] PError),
    /// The signature cannot be made; most often the file cannot be read.
    #[error("Cannot sign")]
    Sign(#[source] PError),
}

/// A password. Shows itself nowhere.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Takes a password; an empty one is one too.
    ///
    /// # Errors
    /// [`SecretError::LongPassword`].
    pub fn new(text: String) -> Result<Self, SecretError> {
        if text.len() > MAX_PASSWORD_BYTES {
            return Err(SecretError::LongPassword);
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A new key pair, as its two files hold it.
pub struct KeyFiles {
    /// The secret half, encrypted if there is a password.
    pub secret: String,
    /// The public half.
    pub public: String,
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFiles")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// Makes a key pair. Deriving a key from a password takes about a second, on purpose.
///
/// # Errors
/// Where the system has no randomness or no memory.
pub fn generate(password: Option<Password>) -> Result<KeyFiles, SecretError> {
    let (pair, comment) = match password {
        Some(Password(password)) => (
            KeyPair::generate_encrypted_keypair(Some(password)),
            SECRET_KEY_COMMENT_ENCRYPTED,
        ),
        None => (KeyPair::generate_unencrypted_keypair(), SECRET_KEY_COMMENT),
    };
    let pair = pair.map_err(SecretError::Generate)?;
    let secret = pair.sk.to_box(Some(comment));
    let public = pair.pk.to_box();
    Ok(KeyFiles {
        secret: secret.map_err(SecretError::Generate)?.into_string(),
        public: public.map_err(SecretError::Generate)?.into_string(),
    })
}

/// Whether the secret key in `text` has a password.
pub fn is_encrypted(text: &str) -> bool {
    // Whatever else is wrong with it shows when it is used.
    decode(text).is_ok_and(|bytes| !has_no_password(&bytes))
}

/// Signs what `content` gives, with the secret key in `key_text`.
///
/// # Errors
/// Why not.
pub fn sign(
    key_text: &str,
    password: Option<Password>,
    content: impl Read,
    trusted_comment: &str,
) -> Result<String, SecretError> {
    let comment = trusted_comment.trim();
    if comment.len() > MAX_COMMENT_BYTES || comment.chars().any(|c| c.is_control() && c != '\t') {
        return Err(SecretError::Comment);
    }
    let key = read(key_text, password)?;
    // The signature is checked with the public half: a damaged key makes none.
    let public = PublicKey::from_secret_key(&key).map_err(|_| SecretError::Format)?;
    let signature = minisign::sign(
        Some(&public),
        &key,
        content,
        Some(comment),
        Some(SIGNATURE_COMMENT),
    );
    signature
        .map(SignatureBox::into_string)
        .map_err(|error| match error.kind() {
            ErrorKind::Verify => SecretError::Damaged,
            _ => SecretError::Sign(error),
        })
}

fn read(text: &str, password: Option<Password>) -> Result<SecretKey, SecretError> {
    let bytes = decode(text)?;
    if has_no_password(&bytes) {
        // `minisign -G -W` leaves the checksum 0, which the crate takes for damage.
        return if bytes[CHECKSUM_AT..].iter().all(|&byte| byte == 0) {
            SecretKey::from_bytes(&bytes).map_err(|_| SecretError::Format)
        } else {
            let key = SecretKeyBox::from(text.to_owned());
            key.into_unencrypted_secret_key()
                .map_err(|_| SecretError::Damaged)
        };
    }
    let Some(Password(password)) = password else {
        return Err(SecretError::NoPassword);
    };
    let key = SecretKeyBox::from(text.to_owned());
    key.into_secret_key(Some(password))
        .map_err(|error| match error.kind() {
            ErrorKind::Verify => SecretError::WrongPassword,
            _ => SecretError::Format,
        })
}

fn decode(text: &str) -> Result<Vec<u8>, SecretError> {
    let line = text.lines().nth(1).ok_or(SecretError::Format)?;
    let bytes = BASE64
        .decode(line.trim())
        .map_err(|_| SecretError::Format)?;
    if bytes.len() == SECRET_KEY_BYTES && bytes.starts_with(ALGORITHM) {
        Ok(bytes)
    } else {
        Err(SecretError::Format)
    }
}

/// The derivation of the key from a password is 0 where there is none.
fn has_no_password(bytes: &[u8]) -> bool {
    bytes.get(2..4) == Some(&[0, 0])
}
