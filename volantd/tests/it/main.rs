//! Tests of volantd from outside its modules: real processes, sockets, files and network namespaces.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod agent;
mod api;
mod artifact;
mod media;
mod net;
mod netns;
mod signatures;
#[cfg(feature = "test-fakes")]
mod rootfs;
#[cfg(feature = "test-fakes")]
mod vmm;
#[cfg(feature = "test-fakes")]
mod vmm_faults;
#[cfg(feature = "test-fakes")]
mod vmm_real;
