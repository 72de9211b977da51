//! `cargo xtask`: the repository's own tooling, one module per command. What a command does lives in its module; here is
//! only the list of commands and what becomes of an error.

mod api;
mod bench;
mod cache;
mod caddy;
mod ci;
mod digest_file;
mod dist;
mod download;
mod e2e;
mod elf;
mod examples;
mod generated;
mod kernel;
mod oci_layout;
mod openapi;
mod packages;
mod printer;
mod process;
mod python;
mod repro;
mod schemas;
mod tally;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The tooling of the Volant repository.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check there is, ending with the real boot
    Ci(ci::Arguments),
    /// Check the repository's own rules: layers, file sizes, licences, documented commands
    Tidy,
    /// Build the five programs into target/dist, and check their size and linking
    Dist,
    /// Check that an example built twice is the same file
    Repro,
    /// Measure one of the programs beside what others use for the same
    #[command(subcommand)]
    Bench(bench::Command),
    /// Let VMs come and go on volantd, and see that nothing of them is left
    Soak(api::soak::Arguments),
    #[command(hide = true)]
    BenchApiBare(api::bench::BareArguments),
    E2e(e2e::Arguments),
    #[command(hide = true)]
    E2eScenario(e2e::ScenarioArguments),
    /// Write the JSON Schemas of the files that users write
    Schemas(schemas::Arguments),
    /// Write docs/openapi.json, the description of volantd's API
    Openapi,
    /// Build the guest kernel, or find the one built before
    Kernel(kernel::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Ci(arguments) => ci::run(&arguments),
        Command::Tidy => tidy::run().map(drop),
        Command::Dist => dist::run(),
        Command::Repro => repro::run(),
        Command::Bench(command) => bench::run(&command),
        Command::Soak(arguments) => api::soak::run(&arguments),
        Command::BenchApiBare(arguments) => api::bench::serve_bare(&arguments),
        Command::E2e(arguments) => e2e::run(&arguments).map(drop),
        Command::E2eScenario(arguments) => e2e::run_scenario(&arguments),
        Command::Schemas(arguments) => schemas::run(&arguments),
        Command::Openapi => openapi::run(),
        Command::Kernel(arguments) => kernel::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer::error(&error);
            ExitCode::FAILURE
        }
    }
}
