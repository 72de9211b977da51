//! The only place of xtask that prints. Progress and errors go to stderr, a command's result to stdout. No colours, no
//! terminal tricks: the same lines are read in a CI log.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the printer"
)]

/// Prints one line of progress: what is at work, and what it does.
pub(crate) fn progress(subject: &str, text: &str) {
    eprintln!("{subject}: {text}");
}

/// Prints lines that are not xtask's own, such as the end of a log, set off from the rest.
pub(crate) fn quote(text: &str) {
    for line in text.lines() {
        eprintln!("  | {line}");
    }
}

/// Prints a command's result.
pub(crate) fn result(text: &str) {
    println!("{text}");
}

/// Prints an error and what led to it.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
