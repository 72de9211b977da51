//! One module for each command.

mod archive_limit;
pub mod build;
pub mod cache;
pub mod check;
pub mod completions;
pub mod diff;
pub mod init;
pub mod inspect;
pub mod keygen;
mod password;
pub mod serve;
pub mod sign;
mod small_file;
pub(crate) mod staged;
pub mod verify;
pub mod version;

use common::exit_code::ExitCode;

/// How a command that fails ends.
pub trait Failure: std::error::Error + 'static {
    /// The exit code of the program.
    fn exit_code(&self) -> ExitCode;

    /// What can be done about it.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}
