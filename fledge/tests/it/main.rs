//! The `fledge` program as its users run it: real files, real processes, no network beyond loopback.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod artifacts;
mod bad_input;
mod beside;
mod build;
mod cache;
mod check;
mod corpus;
mod download;
mod fetch;
mod init;
mod initramfs;
mod no_room;
mod reproducible;
mod serve;
mod signatures;
mod workspace;
