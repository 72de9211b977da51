//! The daemon of Volant: installs plugins and runs them as microVMs, one VMM process for each VM.
//!
//! The arrows run one way: `http → service → machine → ports ← vmm, net, media, agent, console, log, event`; only `app` names the implementations.

pub mod access;
pub mod agent;
pub mod app;
pub mod artifact;
pub mod cause;
pub mod config;
pub mod connections;
pub mod console;
pub mod event;
pub mod http;
pub mod limits;
pub mod listeners;
pub mod log;
pub mod logging;
pub mod machine;
pub mod media;
pub mod metrics;
pub mod net;
pub mod outside;
pub mod service;
pub mod signature;
pub mod state_lock;
pub mod store;
pub mod task;
pub mod token;
pub mod usage;
pub mod vmm;
