//! `fledge keygen`: makes a key pair for signatures, as two files. Never replaces a file.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use common::exit_code::ExitCode;

use super::Failure;
use super::password::{PasswordArgs, PasswordError, PasswordSource};
use super::staged::{PUBLIC_MODE, Staged, directory_of, is_full};
use crate::signature::secret::{self, SecretError};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge keygen
      make fledge.key, with a password, and fledge.pub
  fledge keygen -o ~/.config/volant/release --password-file release.password
      make release.key and release.pub in that directory
  fledge keygen -o ci --no-password
      make a key for a machine; whoever reads ci.key can sign with it

The keys are those of minisign, which can use them too. Give fledge.pub to those who verify; keep fledge.key to yourself.";

/// Only its owner reads a secret key.
const SECRET_MODE: u32 = 0o600;

/// Flags of `fledge keygen`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct KeygenArgs {
    /// Where the keys go: NAME.key and NAME.pub
    #[arg(short, long, value_name = "[DIRECTORY/]NAME", default_value = "fledge")]
    output: PathBuf,
    /// Make a secret key that needs no password
    #[arg(long, conflicts_with_all = ["password_file", "password_env"])]
    no_password: bool,
    #[command(flatten)]
    password: PasswordArgs,
}

/// Keys that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeygenError {
    /// A key would be replaced.
    #[error("`{}` exists already: a key is never replaced", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// There is no password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The keys cannot be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its directory does not exist.
    #[error("The directory `{}` for the keys does not exist", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A key cannot be written.
    #[error("Cannot write `{}`", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Failure for KeygenError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exists { .. } => ExitCode::Conflict,
            Self::NoDirectory { .. } => ExitCode::NotFound,
            Self::Password(error) => error.exit_code(),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ExitCode::NotFound
            }
            Self::Write { source, .. } if is_full(source) => ExitCode::Capacity,
            Self::Secret(_) | Self::Write { .. } => ExitCode::Invalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Exists { .. } => vec!["name the new one with --output".to_owned()],
            Self::Password(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// Makes a key pair.
///
/// # Errors
/// Where a file would be replaced, or cannot be written; then neither is.
pub fn run(args: KeygenArgs, ui: &Ui) -> Result<(), KeygenError> {
    let secret_path = with_suffix(&args.output, ".key");
    let public_path = with_suffix(&args.output, ".pub");
    // Before the user types a password twice; publishing checks again.
    let directory = directory_of(&secret_path);
    if !directory.is_dir() {
        return Err(KeygenError::NoDirectory {
            path: directory.to_path_buf(),
        });
    }
    for path in [&secret_path, &public_path] {
        if path.symlink_metadata().is_ok() {
            return Err(KeygenError::Exists { path: path.clone() });
        }
    }
    let source: PasswordSource = args.password.resolve();
    let password = if args.no_password {
        None
    } else {
        Some(source.new_one()?)
    };
    let keys = secret::generate(password)?;
    let secret_file = stage(&secret_path, &keys.secret, SECRET_MODE)?;
    let public_file = stage(&public_path, &keys.public, PUBLIC_MODE)?;
    publish(secret_file, &secret_path)?;
    if let Err(error) = publish(public_file, &public_path) {
        // It is new, and of no use without the other half.
        drop(fs_err::remove_file(&secret_path));
        return Err(error);
    }
    ui.result(&format!(
        "{}: the secret key; keep it to yourself",
        secret_path.display()
    ));
    let public = keys.public.lines().nth(1).unwrap_or_default();
    ui.result(&format!(
        "{}: the public key, {public}",
        public_path.display()
    ));
    if args.no_password {
        ui.note("the secret key has no password: whoever can read the file can sign");
    }
    Ok(())
}

fn with_suffix(output: &Path, suffix: &str) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn stage(path: &Path, text: &str, mode: u32) -> Result<Staged, KeygenError> {
    let write = || -> io::Result<Staged> {
        let mut staged = Staged::holding(path, mode, text.as_bytes())?;
        staged.file().sync_all()?;
        Ok(staged)
    };
    write().map_err(|source| KeygenError::Write {
        path: path.to_path_buf(),
        source,
    })
}

fn publish(staged: Staged, path: &Path) -> Result<(), KeygenError> {
    let path = path.to_path_buf();
    match staged.place() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(KeygenError::Exists { path })
        }
        Err(source) => Err(KeygenError::Write { path, source }),
    }
}
