//! `fledge sign`: writes the signature of a file beside it.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use common::exit_code::ExitCode;

use super::Failure;
use super::password::{PasswordArgs, PasswordError};
use super::small_file::{self, FileError};
use super::staged::{PUBLIC_MODE, Staged, is_full};
use crate::signature;
use crate::signature::secret::{self, SecretError};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge sign plugin.cpio.gz -s fledge.key
      write plugin.cpio.gz.minisig
  fledge sign plugin.cpio.gz -s ci.key -c \"caddy 2.10, built from v2.10.0\"
      with a comment that is signed too and shown by `fledge verify`

The signature lies beside the artifact, where volantd looks for it; a stock `minisign -V` checks it too.";

/// Flags of `fledge sign`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SignArgs {
    /// The file to sign
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// The secret key, made by `fledge keygen` or `minisign -G`
    #[arg(short, long, value_name = "FILE")]
    secret_key: PathBuf,
    /// One line that is signed too [default: the file's name]
    #[arg(short = 'c', long, value_name = "TEXT")]
    trusted_comment: Option<String>,
    #[command(flatten)]
    password: PasswordArgs,
}

/// A signature that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Artifact or key cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The key cannot be used.
    #[error("Cannot sign with `{}`", key.display())]
    Secret {
        /// Its path.
        key: PathBuf,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The signature cannot be written.
    #[error("Cannot write `{}`", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Failure for SignError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Password(error) => error.exit_code(),
            Self::Secret {
                source: SecretError::WrongPassword,
                ..
            } => ExitCode::Verification,
            Self::Write { source, .. } if is_full(source) => ExitCode::Capacity,
            Self::Secret { .. } | Self::Write { .. } => ExitCode::Invalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Password(error) => error.hints(),
            Self::File(FileError::NotFound {
                what: "secret key", ..
            }) => {
                vec!["`fledge keygen` makes one".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Signs.
///
/// # Errors
/// Why not; then no signature is written, and one that is there stays.
pub fn run(args: SignArgs, ui: &Ui) -> Result<(), SignError> {
    let content = small_file::open(&args.artifact, "file to sign")?;
    let key = small_file::read(&args.secret_key, "secret key", secret::MAX_SECRET_KEY_BYTES)?;
    let password = if secret::is_encrypted(&key) {
        Some(args.password.resolve().existing()?)
    } else {
        None
    };
    let comment = args
        .trusted_comment
        .unwrap_or_else(|| default_comment(&args.artifact));
    let signature =
        secret::sign(&key, password, content, &comment).map_err(|source| SignError::Secret {
            key: args.secret_key.clone(),
            source,
        })?;
    let path = signature::path_beside(&args.artifact);
    Staged::holding(&path, PUBLIC_MODE, signature.as_bytes())
        .and_then(Staged::replace)
        .map_err(|source| SignError::Write {
            path: path.clone(),
            source,
        })?;
    ui.result(&format!("{}: the signature", path.display()));
    Ok(())
}

/// What is signed, as `minisign` says it too.
fn default_comment(artifact: &Path) -> String {
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let plain: String = name.chars().filter(|c| !c.is_control()).collect();
    format!("file:{plain}")
}
