//! What two programs of Volant must agree on, as plain data and pure functions.
//!
//! Nothing here reads a file, a socket, a clock or the environment, and nothing is async: every function can be tested with a table.
#![warn(missing_docs)]

pub mod agent;
pub mod api;
pub mod build_spec;
pub mod cmdline;
pub mod digest;
pub mod error_chain;
pub mod exit_code;
pub mod guest_config;
pub mod json;
pub mod manifest;
pub mod name;
pub mod net;
#[cfg(feature = "schema")]
pub mod schema;
