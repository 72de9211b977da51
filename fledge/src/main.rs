//! The `fledge` program: hands its arguments over.

use std::process::ExitCode;

fn main() -> ExitCode {
    fledge::cli::run()
}
