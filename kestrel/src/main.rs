//! kestrel: PID 1 of a Volant guest, and the agent that the host talks to. It never exits there: its end is a power-off.

mod agent;
mod boot;
mod cmdline;
mod command_probe;
mod console;
mod files;
mod guest_config;
mod http_client;
mod interpreter;
mod log;
mod manifest;
mod mounts;
mod network;
mod power;
mod probe;
mod reaper;
mod rootfs;
mod server;
mod session;
mod shell;
mod signals;
mod stats;
mod status;
mod supervise;
mod sys;
mod user;
mod workload;

use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::time::Duration;

use common::error_chain::Chain;
use common::exit_code;

use crate::sys::{Linux, Sys};

/// How long a thread that has copied a file waits for the next: threads cost memory.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The machine that this process runs on, if it is PID 1.
static MACHINE: Linux = Linux::new();

const HELP: &str = "\
kestrel is PID 1 of a Volant guest: it mounts, sets the network up, runs the plugin's
workload and keeps it running, and answers the host on port 8080 (TCP and vsock).
It takes no options; everything comes from the kernel command line and volantd.

Usage: kestrel --version | --help
";

/// What this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// PID 1, whatever its arguments: the kernel passes on words that it does not know.
    Init,
    /// Asked for its version.
    Version,
    /// Asked for help.
    Help,
    /// Started by somebody, somewhere.
    Stranger,
}

impl Role {
    fn of(pid: u32, mut arguments: impl Iterator<Item = String>) -> Self {
        match (pid, arguments.next().as_deref()) {
            (1, _) => Self::Init,
            (_, Some("--version" | "-V")) => Self::Version,
            (_, Some("--help" | "-h")) => Self::Help,
            _ => Self::Stranger,
        }
    }
}

fn main() -> ExitCode {
    let arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let code = match Role::of(std::process::id(), arguments) {
        Role::Init => {
            init(&MACHINE);
            // Only where the kernel refused to power off.
            exit_code::ExitCode::Internal
        }
        Role::Version => {
            console::answer(concat!("kestrel ", env!("CARGO_PKG_VERSION"), "\n"));
            exit_code::ExitCode::Success
        }
        Role::Help => {
            console::answer(HELP);
            exit_code::ExitCode::Success
        }
        Role::Stranger => {
            console::complain("kestrel is PID 1 of a Volant guest; it does nothing here");
            exit_code::ExitCode::Usage
        }
    };
    code.into()
}

/// The guest's whole life.
fn init(sys: &'static dyn Sys) {
    let began = sys.boot_time();
    std::panic::set_hook(Box::new(move |info| {
        console::fatal(&last_words(info));
        power::off(sys);
    }));
    match boot::run(sys) {
        Ok(facts) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(server::MAX_COPIES)
                .thread_keep_alive(THREAD_KEEP_ALIVE)
                .build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(agent::run(facts, began));
                    // Its end would wait for copies that nobody takes. The machine's end does not.
                    std::mem::forget(runtime);
                }
                Err(error) => console::fatal(&format!("Cannot wait for events: {error}")),
            }
        }
        Err(error) => console::fatal(&Chain(&error).to_string()),
    }
    power::off(sys);
}

fn last_words(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let what = info.payload_as_str().unwrap_or("no reason given");
    format!("A bug in the agent at {place}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pid_1_is_init() {
        let role = |pid, arguments: &[&str]| {
            Role::of(pid, arguments.iter().map(|argument| (*argument).to_owned()))
        };
        let table = [
            (1, &[][..], Role::Init),
            (1, &["--help"], Role::Init),
            (1, &["splash"], Role::Init),
            (2, &[], Role::Stranger),
            (0, &["run"], Role::Stranger),
            (77, &["--version"], Role::Version),
            (77, &["-V"], Role::Version),
            (77, &["--help"], Role::Help),
        ];
        for (pid, arguments, expected) in table {
            assert_eq!(role(pid, arguments), expected, "{pid} {arguments:?}");
        }
    }
}
