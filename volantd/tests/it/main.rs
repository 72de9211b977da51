//! Tests of volantd from outside its modules: real processes, sockets, files and network namespaces.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod agent;
mod agent_stream;
mod api;
mod api_artifacts;
mod api_gate;
mod artifact;
mod conformity;
mod connections;
mod daemon;
mod departures;
mod events;
mod guest_access;
mod guest_lab;
mod media;
mod metrics;
mod net;
mod netns;
mod openmetrics;
mod pauses;
#[cfg(feature = "test-fakes")]
mod rootfs;
mod settings;
mod signatures;
#[cfg(feature = "test-fakes")]
mod steering;
mod stores;
mod tracing;
#[cfg(feature = "test-fakes")]
mod vmm;
#[cfg(feature = "test-fakes")]
mod vmm_faults;
#[cfg(feature = "test-fakes")]
mod vmm_real;
