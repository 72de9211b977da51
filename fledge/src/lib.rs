//! Builds bootable artifacts: a build spec becomes a file tree, the tree an image. The program around it is behind feature `cli`.
//!
//! The arrows run one way: `commands → plan, fetch, assemble → tree → image`. [`tree`] and [`image`] know nothing of build specs,
//! networks or terminals, so that volantd can use them too. Nothing here needs root or another program.

pub mod image;
pub mod inspect;
pub mod signature;
pub mod tree;

#[cfg(feature = "cli")]
pub mod assemble;
#[cfg(feature = "cli")]
pub mod budget;
#[cfg(feature = "cli")]
pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod commands;
#[cfg(feature = "cli")]
pub mod confinement;
#[cfg(feature = "cli")]
pub mod fetch;
#[cfg(feature = "cli")]
mod little_endian;
#[cfg(feature = "cli")]
pub mod manifest_out;
#[cfg(feature = "cli")]
pub mod oci;
#[cfg(feature = "cli")]
pub mod plan;
#[cfg(feature = "cli")]
pub mod provenance;
#[cfg(feature = "cli")]
pub mod sbom;
#[cfg(feature = "cli")]
pub mod serve;
#[cfg(feature = "cli")]
mod tar_format;
#[cfg(feature = "cli")]
pub mod timestamp;
#[cfg(feature = "cli")]
pub mod ui;
#[cfg(feature = "cli")]
pub mod workload;
