//! `volar plugins …`, one file for each command.

pub(super) mod install;
pub(super) mod list;
pub(super) mod remove;
pub(super) mod show;
pub(super) mod toggle;
