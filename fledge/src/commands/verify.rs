//! `fledge verify`: checks a signature, and the checksum in the manifest beside the artifact. Nothing is written.

use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use common::digest::Digest;
use common::exit_code::ExitCode;
use common::manifest::MAX_MANIFEST_BYTES;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Failure;
use super::small_file::{self, FileError};
use crate::manifest_out;
use crate::signature::{
    self, MAX_PUBLIC_KEY_BYTES, MAX_SIGNATURE_BYTES, PublicKey, PublicKeyError, Signature,
    SignatureError,
};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge verify plugin.cpio.gz -p fledge.pub
      check plugin.cpio.gz.minisig and, if it is there, plugin.cpio.gz.manifest.json
  fledge verify plugin.cpio.gz -P RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3
      with a key that is not in a file

The exit code is 0 if all of it holds, 6 if something does not match, 3 if something is missing.";

/// Flags of `fledge verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// The file that was signed
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// The file with the signer's public key
    #[arg(
        short = 'p',
        long,
        value_name = "FILE",
        required_unless_present = "key",
        conflicts_with = "key"
    )]
    public_key: Option<PathBuf>,
    /// The signer's public key itself, in base64
    #[arg(short = 'P', long, value_name = "BASE64")]
    key: Option<String>,
    /// The signature [default: the artifact's name and .minisig]
    #[arg(short = 'x', long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// An artifact that is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key is none.
    #[error("Cannot use the public key")]
    Key(#[source] PublicKeyError),
    /// The signature does not hold.
    #[error("The signature `{}` does not hold", path.display())]
    Signature {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// The manifest beside it cannot be read.
    #[error("Cannot read the manifest `{}`", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest beside it is of another artifact.
    #[error("The manifest `{}` is of another artifact: expected {expected}, got {found}", path.display())]
    Checksum {
        /// Its path.
        path: PathBuf,
        /// What the manifest says.
        expected: Digest,
        /// What the artifact has.
        found: Digest,
    },
}

impl Failure for VerifyError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Signature { .. } | Self::Checksum { .. } => ExitCode::Verification,
            Self::Key(_) | Self::Manifest { .. } => ExitCode::Invalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::File(FileError::NotFound {
                what: "signature", ..
            }) => {
                vec![
                    "`fledge sign` makes one; --signature names one that lies elsewhere".to_owned(),
                ]
            }
            _ => Vec::new(),
        }
    }
}

/// What is read of a manifest here; whether it is a good one is volantd's question.
#[derive(Debug, Deserialize)]
struct Sidecar {
    initramfs: Option<Pinned>,
    rootfs: Option<Pinned>,
}

#[derive(Debug, Deserialize)]
struct Pinned {
    checksum: Option<Digest>,
}

/// Checks.
///
/// # Errors
/// The first thing that does not hold.
pub fn run(args: VerifyArgs, ui: &Ui) -> Result<(), VerifyError> {
    let key = public_key(args.public_key, args.key.as_deref())?;
    let content = small_file::open(&args.artifact, "artifact")?;
    let path = args
        .signature
        .unwrap_or_else(|| signature::path_beside(&args.artifact));
    let text = small_file::read(&path, "signature", MAX_SIGNATURE_BYTES)?;
    let mut content = Hashing {
        inner: content,
        hash: Sha256::new(),
    };
    let checked = Signature::parse(text.as_bytes()).and_then(|signature| {
        signature.verify(&mut content, std::slice::from_ref(&key))?;
        Ok(signature)
    });
    let signature = checked.map_err(|source| VerifyError::Signature { path, source })?;
    let digest = Digest::from_bytes(content.hash.finalize().into());

    let manifest = manifest_out::path_beside(&args.artifact);
    let pinned = match small_file::read(&manifest, "manifest", manifest_limit_bytes()) {
        Ok(text) => Some(text),
        Err(FileError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let artifact = args.artifact.display();
    ui.result(&format!(
        "{artifact}: signed by {}, {}",
        key.id(),
        signature.trusted_comment()
    ));
    ui.result(&format!("{artifact}: {digest}"));
    let Some(text) = pinned else {
        return Ok(());
    };
    match checksum(&text) {
        Ok(Some(expected)) if expected == digest => {
            ui.result(&format!("{}: has this checksum", manifest.display()));
            Ok(())
        }
        Ok(Some(expected)) => Err(VerifyError::Checksum {
            path: manifest,
            expected,
            found: digest,
        }),
        Ok(None) => {
            ui.warn(&format!(
                "{}: has no checksum of the artifact",
                manifest.display()
            ));
            Ok(())
        }
        Err(source) => Err(VerifyError::Manifest {
            path: manifest,
            source,
        }),
    }
}

fn public_key(path: Option<PathBuf>, text: Option<&str>) -> Result<PublicKey, VerifyError> {
    match (path, text) {
        (Some(path), _) => {
            let text = small_file::read(&path, "public key", MAX_PUBLIC_KEY_BYTES)?;
            PublicKey::from_file_text(&text)
        }
        (None, text) => text.unwrap_or_default().parse(),
    }
    .map_err(VerifyError::Key)
}

fn manifest_limit_bytes() -> u64 {
    u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX)
}

fn checksum(manifest: &str) -> Result<Option<Digest>, serde_json::Error> {
    let sidecar: Sidecar = serde_json::from_str(manifest)?;
    let pinned = sidecar.initramfs.or(sidecar.rootfs);
    Ok(pinned.and_then(|pinned| pinned.checksum))
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
