//! The program as its users run it, against a daemon that these tests play themselves, well- and misbehaving.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod certificate;
mod console;
mod contexts;
mod control;
mod documents;
mod fake;
mod followed;
mod guest;
mod help;
mod misbehaviour;
mod plugins;
mod run;
mod terminal;
mod tls;
mod vms;
mod watch;
