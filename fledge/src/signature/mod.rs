//! Signatures of artifacts in minisign's format, which a stock `minisign` reads and writes too: this checks them. Making keys and
//! signatures is [`secret`], and needs feature `cli`. Does not decide which keys are trusted.
//!
//! Only prehashed signatures (algorithm `ED`: Ed25519 over the file's BLAKE2b-512) are taken: `minisign` has made no others by default
//! since 0.10, and the older kind needs the whole file in memory. Formats: <https://jedisct1.github.io/minisign/>.

#[cfg(feature = "cli")]
pub mod secret;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign_verify as minisign;

/// What is appended to the artifact's name, as `minisign` does.
pub const SUFFIX: &str = ".minisig";

/// The largest signature that is read, in bytes. A comment of the usual length makes about 300.
pub const MAX_SIGNATURE_BYTES: u64 = 4096;

/// The largest file with a public key that is read, in bytes: a comment and 56 characters.
pub const MAX_PUBLIC_KEY_BYTES: u64 = 4096;

/// How much is hashed at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// Where the signature of the artifact at `path` lies.
pub fn path_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(SUFFIX);
    path.with_file_name(name)
}

/// A public key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// It is no such key.
    #[error(
        "`{shown}` is not a minisign public key: it has 56 characters of base64 that begin with `RW`"
    )]
    Invalid {
        /// Its beginning.
        shown: String,
    },
    /// The file with it has no second line.
    #[error("There is no public key in it: a comment should be its first line, the key its second")]
    NoKey,
}

/// A signature that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The signature is no such file.
    #[error(
        "This is not a minisign signature: there should be a comment, the signature, a trusted comment and its signature, one a line"
    )]
    Format,
    /// It has the older kind.
    #[error(
        "The signature is of the older kind that is not prehashed: sign with `fledge sign`, or with `minisign` 0.10 or later"
    )]
    Legacy,
    /// Another key made it.
    #[error("It was signed with key {signed_by}, not with {}", keys(.trusted))]
    OtherKey {
        /// Which one made it, as it says.
        signed_by: KeyId,
        /// Those that would do.
        trusted: Vec<KeyId>,
    },
    /// The content or the comment is not what was signed.
    #[error(
        "The signature does not match: the file, the signature or its trusted comment was changed"
    )]
    Mismatch,
    /// The content cannot be read.
    #[error("Cannot read what was signed")]
    Read(#[source] io::Error),
}

/// The number of a key pair, as `minisign` shows it. Not a secret, and not a proof of anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn keys(keys: &[KeyId]) -> String {
    let keys: Vec<_> = keys.iter().map(KeyId::to_string).collect();
    match keys.as_slice() {
        [] => "a trusted key: none is known".to_owned(),
        keys => keys.join(" or "),
    }
}

/// A public key. Written and read as one line of base64.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: minisign::PublicKey,
    base64: String,
    id: KeyId,
}

impl PublicKey {
    /// Reads what a file such as `minisign.pub` holds: a comment, then the key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_file_text(text: &str) -> Result<Self, PublicKeyError> {
        text.lines().nth(1).ok_or(PublicKeyError::NoKey)?.parse()
    }

    /// Which key pair it belongs to.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let base64 = text.trim();
        let invalid = || PublicKeyError::Invalid {
            shown: base64
                .chars()
                .take(60)
                .flat_map(char::escape_debug)
                .collect(),
        };
        let key = minisign::PublicKey::from_base64(base64).map_err(|_| invalid())?;
        let id = key_id(base64).ok_or_else(invalid)?;
        Ok(Self {
            key,
            base64: base64.to_owned(),
            id,
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base64)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number in a public key or a signature: both begin with two bytes for the algorithm, then it.
fn key_id(base64: &str) -> Option<KeyId> {
    let bytes = BASE64.decode(base64).ok()?;
    bytes.get(2..)?.first_chunk().copied().map(KeyId)
}

/// A signature. That it was read says nothing about whether it holds: see [`Signature::verify`].
#[derive(Clone)]
pub struct Signature {
    signature: minisign::Signature,
    key: KeyId,
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signature")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Signature {
    /// Reads the content of a `.minisig` file.
    ///
    /// # Errors
    /// [`SignatureError::Format`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let text = std::str::from_utf8(bytes).map_err(|_| SignatureError::Format)?;
        let too_large = u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_SIGNATURE_BYTES;
        let second = text.lines().nth(1).filter(|_| !too_large);
        let key = second
            .and_then(|line| key_id(line.trim()))
            .ok_or(SignatureError::Format)?;
        let signature = minisign::Signature::decode(text).map_err(|_| SignatureError::Format)?;
        Ok(Self { signature, key })
    }

    /// Which key made it, as it says itself.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// What the signer says of the artifact. To be believed only after [`Signature::verify`].
    pub fn trusted_comment(&self) -> &str {
        self.signature.trusted_comment()
    }

    /// Reads `content` to its end, and returns the key that it was signed with.
    ///
    /// # Errors
    /// Why the signature does not hold for it with any of the keys.
    pub fn verify<'a>(
        &self,
        mut content: impl Read,
        trusted: &'a [PublicKey],
    ) -> Result<&'a PublicKey, SignatureError> {
        // Two keys with one number would be made on purpose: the first whose signature holds is taken.
        let mut candidates = Vec::new();
        for key in trusted.iter().filter(|key| key.id == self.key) {
            let verifier = key.key.verify_stream(&self.signature);
            let verifier = verifier.map_err(|error| match error {
                minisign::Error::UnsupportedLegacyMode => SignatureError::Legacy,
                _ => SignatureError::Mismatch,
            })?;
            candidates.push((key, verifier));
        }
        if candidates.is_empty() {
            return Err(SignatureError::OtherKey {
                signed_by: self.key,
                trusted: trusted.iter().map(PublicKey::id).collect(),
            });
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(SignatureError::Read(error)),
            };
            for (_, verifier) in &mut candidates {
                verifier.update(&buffer[..count]);
            }
        }
        candidates
            .into_iter()
            .find_map(|(key, mut verifier)| verifier.finalize().is_ok().then_some(key))
            .ok_or(SignatureError::Mismatch)
    }
}
