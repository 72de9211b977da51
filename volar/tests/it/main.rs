//! The program as its users run it, against a daemon that these tests play themselves, well- and misbehaving.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod console;
mod fake;
mod help;
mod misbehaviour;
mod plugins;
mod terminal;
mod vms;
