//! The `volar` program. Everything is in the library; nothing is decided here.

use std::process::ExitCode;

fn main() -> ExitCode {
    volar::run(std::env::args_os(), std::env::vars_os())
}
