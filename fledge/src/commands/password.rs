//! Where the password of a secret key comes from: a file, a variable of the environment, or whoever sits at the terminal. Never the
//! command line, which every user of the machine can read.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use clap::Args;
use common::exit_code::ExitCode;

use super::small_file::{self, FileError};
use crate::signature::secret::{MAX_PASSWORD_BYTES, Password, SecretError};

/// The largest file with a password, in bytes: the longest password and the end of its line.
const MAX_FILE_BYTES: u64 = 1024 + 2;
const _: () = assert!(MAX_PASSWORD_BYTES == 1024);

/// Flags that name a password.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the secret key's password from the first line of a file
    #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
    password_file: Option<PathBuf>,
    /// Read the secret key's password from this variable of the environment
    #[arg(long, value_name = "VARIABLE")]
    password_env: Option<OsString>,
}

/// Where the password comes from.
#[derive(Debug)]
pub(super) enum PasswordSource {
    Terminal,
    File(PathBuf),
    /// A variable, and what it held.
    Variable(String, Option<OsString>),
}

/// A password that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Nobody can be asked.
    #[error("Cannot ask for the password of the secret key")]
    Ask(#[source] io::Error),
    /// Two different ones were typed.
    #[error("The two passwords differ")]
    Differ,
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The variable is not set, or no text.
    #[error("`{name}` is not set in the environment, or no text")]
    Variable {
        /// Its name.
        name: String,
    },
    /// It is too long.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl PasswordError {
    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => error.exit_code(),
            Self::Ask(_) | Self::Differ | Self::Variable { .. } | Self::Secret(_) => {
                ExitCode::Invalid
            }
        }
    }

    /// What can be done about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Ask(_) => vec![
                "without a terminal, name it with --password-file FILE or --password-env VARIABLE"
                    .to_owned(),
            ],
            _ => Vec::new(),
        }
    }
}

impl PasswordArgs {
    /// Reads the environment, where a flag names a variable of it.
    pub(super) fn resolve(self) -> PasswordSource {
        match (self.password_file, self.password_env) {
            (Some(path), _) => PasswordSource::File(path),
            (None, Some(name)) => {
                let value = std::env::var_os(&name);
                PasswordSource::Variable(name.to_string_lossy().into_owned(), value)
            }
            (None, None) => PasswordSource::Terminal,
        }
    }
}

impl PasswordSource {
    /// The password of a key that exists.
    pub(super) fn existing(&self) -> Result<Password, PasswordError> {
        self.get(|| ask("Password of the secret key: "))
    }

    /// The password of a key that is made: typed twice, where it is typed.
    pub(super) fn new_one(&self) -> Result<Password, PasswordError> {
        self.get(|| {
            let first = ask("Password for the secret key: ")?;
            let second = ask("The same password again: ")?;
            if first == second {
                Ok(first)
            } else {
                Err(PasswordError::Differ)
            }
        })
    }

    fn get(
        &self,
        ask: impl FnOnce() -> Result<String, PasswordError>,
    ) -> Result<Password, PasswordError> {
        let text = match self {
            Self::Terminal => ask()?,
            Self::File(path) => {
                let text = small_file::read(path, "file with a password", MAX_FILE_BYTES)?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            Self::Variable(name, value) => value
                .as_ref()
                .and_then(|value| value.to_str())
                .ok_or_else(|| PasswordError::Variable { name: name.clone() })?
                .to_owned(),
        };
        Ok(Password::new(text)?)
    }
}

fn ask(prompt: &str) -> Result<String, PasswordError> {
    rpassword::prompt_password(prompt).map_err(PasswordError::Ask)
}
