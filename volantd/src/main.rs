//! The program `volantd`: reads flags and configuration and runs the daemon, or shows the configuration.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use common::exit_code::ExitCode;
use volantd::config::{self, Flags};
use volantd::logging::Logging;

/// Installs plugins and runs them as microVMs.
#[derive(Debug, Parser)]
#[command(name = "volantd", version, after_help = EXAMPLES)]
struct Cli {
    /// Configuration file [default: /etc/volant/volantd.toml, if it is there]
    #[arg(long, global = true, env = "VOLANT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (what happens without a command)
    Run,
    /// Show the configuration: every key with its value and where that came from
    Config,
    /// Print the description of the API, as `/openapi` serves it
    Openapi,
}

/// How long work on blocking threads may take after the end; well within the unit's `TimeoutStopSec`.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "Examples:
  volantd                                   Run with /etc/volant/volantd.toml and VOLANT_* variables
  volantd config                            Show what it would run with
  volantd openapi > openapi.json            Describe the API for client generators
  volantd --state-dir /tmp/volant --hypervisor qemu";

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::Success.into(),
        Err(error) => {
            report(&error);
            ExitCode::Invalid.into()
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(Command::Openapi) = cli.command {
        return print_openapi();
    }
    let (config, settings) = config::load(&cli.flags, cli.config.as_deref())?;
    if let Some(Command::Config) = cli.command {
        show(&settings);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("volantd")
        .build()?;
    let endpoint = config.otlp_endpoint.as_ref();
    let logging = Logging::begin(config.log_format, endpoint, runtime.handle())?;
    let outcome = runtime.block_on(volantd::app::run(config));
    runtime.block_on(logging.end());
    // Work on blocking threads, such as the copy of a large image, is cut off: it is done anew after the next start.
    runtime.shutdown_timeout(BLOCKING_GRACE);
    outcome
}

/// A reader that has gone away has read enough.
fn print_openapi() -> Result<()> {
    match std::io::stdout().write_all(volantd::http::document().as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "the result of `volantd config`")]
fn show(settings: &[config::Setting]) {
    for setting in settings {
        println!(
            "{:<18} {:<32} # {}",
            setting.key, setting.value, setting.origin
        );
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the log may not be set up, and a person started it"
)]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
