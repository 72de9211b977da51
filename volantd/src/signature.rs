//! Whether an artifact may be booted on this host: who must have signed it. Fetches nothing; the artifact store brings signatures and
//! keeps each beside its artifact.
//!
//! Where signatures are required, they are checked twice: before an artifact that arrives is looked into, and before each boot,
//! over the stored bytes. Both fail closed. The second costs, on one core and before the VMM starts: hashing the whole artifact twice
//! (SHA-256, `BLAKE2b`), and for an initramfs unpacking it once more, to compare the prepared image with it byte by byte. Whoever can
//! write in the state folder while a VM starts is not kept out: that is root.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use common::digest::Digest;
use common::manifest::Source;
use fledge::signature::{self, KeyId, MAX_SIGNATURE_BYTES, PublicKey, Signature, SignatureError};
use sha2::{Digest as _, Sha256};

/// Whether artifacts need a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever may install plugins is trusted.
    #[default]
    Optional,
    /// Nothing is installed or booted without the signature of a trusted key.
    Required,
}

/// An artifact that may not be booted here.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It has no signature.
    #[error("It has no signature, and this host requires one")]
    Missing,
    /// Its signature does not hold.
    #[error("Its signature does not hold")]
    Signature(#[source] SignatureError),
    /// The stored file is not the artifact any more.
    #[error("The stored file was changed: expected {expected}, got {found}")]
    Changed {
        /// The digest under which it is stored.
        expected: Digest,
        /// What it has.
        found: Digest,
    },
    /// The artifact or its signature cannot be read.
    #[error("It cannot be read to check its signature")]
    Read(#[source] io::Error),
}

impl Refusal {
    /// What a user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => {
                "Sign it with `fledge sign`, put the `.minisig` beside the artifact, and install the plugin again"
            }
            Self::Signature(SignatureError::OtherKey { .. }) => {
                "Keys are trusted with `trusted_keys` in volantd's configuration"
            }
            Self::Signature(_) | Self::Changed { .. } | Self::Read(_) => {
                "Install the plugin again from a source that you trust"
            }
        }
    }
}

/// The host's rule, and the keys that it trusts.
#[derive(Debug, Clone, Default)]
pub struct Signatures {
    trusted: Vec<PublicKey>,
    policy: Policy,
}

impl Signatures {
    /// A rule. Without keys, a policy of [`Policy::Required`] lets nothing pass.
    pub fn new(trusted: Vec<PublicKey>, policy: Policy) -> Self {
        Self { trusted, policy }
    }

    /// Whether artifacts need a signature.
    pub fn are_required(&self) -> bool {
        self.policy == Policy::Required
    }

    /// Checks the file at `artifact`, which should have `digest`, against the content of a `.minisig` file; answers who signed it.
    /// Blocks while it reads the whole file.
    ///
    /// # Errors
    /// Why it may not be booted.
    pub fn verify(
        &self,
        artifact: &Path,
        digest: &Digest,
        signature: &[u8],
    ) -> Result<KeyId, Refusal> {
        let signature = Signature::parse(signature).map_err(Refusal::Signature)?;
        let file = fs_err::File::open(artifact).map_err(Refusal::Read)?;
        let mut hashing = Hashing {
            file,
            hash: Sha256::new(),
        };
        let key = signature
            .verify(&mut hashing, &self.trusted)
            .map_err(|error| match error {
                SignatureError::Read(source) => Refusal::Read(source),
                error => Refusal::Signature(error),
            })?;
        let found = Digest::from_bytes(hashing.hash.finalize().into());
        if found == *digest {
            Ok(key.id())
        } else {
            Err(Refusal::Changed {
                expected: *digest,
                found,
            })
        }
    }

    /// Checks a stored artifact with the signature beside it, if signatures are required.
    ///
    /// # Errors
    /// Why it may not be booted.
    pub fn verify_stored(&self, artifact: &Path, digest: &Digest) -> Result<(), Refusal> {
        if !self.are_required() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let read = fs_err::File::open(signature::path_beside(artifact)).and_then(|file| {
            // One byte more than is allowed, so that a file that grew is refused.
            file.take(MAX_SIGNATURE_BYTES + 1).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::Missing),
            Err(error) => return Err(Refusal::Read(error)),
        }
        let key = self.verify(artifact, digest, &bytes)?;
        tracing::debug!(%digest, %key, "signature verified");
        Ok(())
    }
}

/// Where the signature of what is at `source` should be: its path with `.minisig` behind it, a URL's query staying where it is.
pub fn source_beside(source: &Source) -> Source {
    match source {
        Source::File(path) => {
            let mut path = OsString::from(path);
            path.push(signature::SUFFIX);
            Source::File(path.into())
        }
        Source::Http(url) => {
            let end = url.find(['?', '#']).unwrap_or(url.len());
            let (path, query) = url.split_at(end);
            Source::Http(format!("{path}{}{query}", signature::SUFFIX))
        }
    }
}

/// Hashes what is read through it.
struct Hashing {
    file: fs_err::File,
    hash: Sha256,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
