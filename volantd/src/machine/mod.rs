//! One VM's life, and all VMs'.
//!
//! Each VM has one task, its [`driver`], which alone changes its phase; everybody else enqueues requests and watches. What a phase, a
//! request or the end of a VMM means is decided in pure code; what is done to the world goes through [`ports`].
//!
//! ```text
//!  registry ── requests ──▶ driver ── steps, follow ──▶ ports (media, network, vmm, guest, console)
//!     ▲                       │  └── record::Journal (every step before it runs)
//!     └──── watch: api::Vm ───┘
//!                             pure: state, requests, plan, lease, health, outcome, timeline, public
//! ```
//!
//! A VM's configuration has versions; each launch resolves the newest one into a [`blueprint`], and keeps that until it is unwound.
//!
//! Knows neither HTTP nor SQL.

mod backoff;
pub mod blueprint;
mod clock;
mod driver;
mod error;
mod follow;
mod health;
mod lease;
mod live;
mod outcome;
mod parts;
pub mod plan;
pub mod ports;
mod public;
pub mod record;
mod registry;
pub mod requests;
pub mod state;
mod steps;
mod timeline;

#[cfg(test)]
mod tests;

pub(crate) use backoff::Backoff;
pub use clock::{Clock, SystemClock};
pub use error::MachineError;
pub use lease::{FIRST_CID, NoAddress, Pool, choose as choose_lease};
pub use live::{Live, LiveGuest};
pub use parts::{BOOT_DEADLINE_KVM, BOOT_DEADLINE_TCG, Parts, Settings};
pub use public::CONSOLE_LOG_NAME;
pub use registry::{NewConfig, NewVm, Registry};
