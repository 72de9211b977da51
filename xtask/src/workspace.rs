//! The checkout that xtask works on: where it is, where cargo puts what it builds, and what `cargo metadata` says about
//! it. It runs nothing but `cargo metadata`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::process;

/// What xtask reads of `cargo metadata`.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a `Cargo.toml`'s dependencies.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for an ordinary dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    /// Only dependencies within the checkout have one.
    pub(crate) path: Option<PathBuf>,
    pub(crate) uses_default_features: bool,
    pub(crate) features: Vec<String>,
}

/// Returns the folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable when it runs xtask; the path from build time serves a binary that was started by hand.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.join("..").canonicalize().unwrap_or(manifest)
}

/// Returns the cargo that runs xtask, to be run at the root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Set for xtask itself; build scripts of what is built now would take them for their own package's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}

/// Asks cargo about this workspace alone, which needs no network.
pub(crate) fn metadata() -> Result<Metadata> {
    read_metadata(&["--no-deps"])
}

/// Asks cargo about every package that the lock file names, downloading those that are not there yet.
pub(crate) fn metadata_with_dependencies() -> Result<Metadata> {
    read_metadata(&["--locked"])
}

fn read_metadata(arguments: &[&str]) -> Result<Metadata> {
    let json = process::captured(
        cargo()
            .args(["metadata", "--format-version", "1"])
            .args(arguments),
    )?;
    serde_json::from_str(&json).context("`cargo metadata` answered something unexpected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
        assert!(root().join("xtask/Cargo.toml").is_file());
    }

    #[test]
    fn cargo_knows_the_members() {
        let metadata = metadata().unwrap();
        assert_eq!(metadata.packages.len(), metadata.workspace_members.len());
        assert!(
            metadata
                .packages
                .iter()
                .any(|package| package.name == "xtask")
        );
    }
}
