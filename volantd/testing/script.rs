//! What a fake is told to do wrong: words in a file beside it, because a VMM's environment is cleared. Shared by the fakes.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// How long a booted fake lives before it ends as it was told to.
pub(crate) const LIFE: Duration = Duration::from_millis(100);

/// The words of the file `<argv0>.script`; none if there is no file.
#[derive(Debug, Clone)]
pub(crate) struct Script(Vec<String>);

impl Script {
    pub(crate) fn read() -> Self {
        let own = std::env::args_os().next().unwrap_or_default();
        let mut path = PathBuf::from(own).into_os_string();
        path.push(".script");
        let text = fs_err::read_to_string(path).unwrap_or_default();
        Self(text.split_whitespace().map(ToOwned::to_owned).collect())
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.iter().any(|have| have == word)
    }
}

/// Never comes back.
pub(crate) fn hang() -> ! {
    loop {
        thread::park();
    }
}

/// Lets SIGTERM pass.
#[expect(unsafe_code, reason = "dispositions of signals have no safe form")]
pub(crate) fn ignore_sigterm() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal installs no handler.
    let _ignored = unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) };
}

/// Takes the descriptors that were handed down.
#[expect(
    unsafe_code,
    reason = "taking over a descriptor by its number has no safe form"
)]
pub(crate) fn inherited<const N: usize>(numbers: [i32; N]) -> [std::os::fd::OwnedFd; N] {
    // SAFETY: called first in `main`, before any other descriptor is opened.
    let found = unsafe { command_fds::inherited::init_inherited_fds() };
    if let Err(error) = found {
        eprintln!("descriptors cannot be taken over: {error}");
        std::process::exit(9)
    }
    numbers.map(|number| {
        command_fds::inherited::take_fd_ownership(number).unwrap_or_else(|error| {
            eprintln!("descriptor {number} was not handed down: {error}");
            std::process::exit(9)
        })
    })
}
