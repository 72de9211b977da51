//! `fledge inspect`: shows what is in an artifact, and what it costs to boot it. Writes nothing.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use common::exit_code::ExitCode;
use common::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError};
use serde::Serialize;

use super::Failure;
use super::small_file::{self, FileError};
use crate::budget::Cost;
use crate::inspect::report::{self, Report, Sized};
use crate::inspect::{self, Artifact, Format, InspectError, Packing, listing};
use crate::manifest_out;
use crate::ui::Ui;
use crate::workload::WorkloadError;

const EXAMPLES: &str = "\
Examples:
  fledge inspect plugin.cpio.gz
      sizes, the largest files and directories, what would start, what it costs to boot
  fledge inspect plugin.cpio.gz --json
      the same for programs
  fledge inspect plugin.cpio.gz --tree
      every file, directory, link and device with its mode, owner and size

Costs are estimates from sizes: the boot media of a VM is volantd's choice, not the artifact's.";

/// Flags of `fledge inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InspectArgs {
    /// The file to look into: a cpio archive (plain, gzip or zstd), or an EROFS, ext4 or squashfs image
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List every entry instead: kind, mode, owner, size in bytes, path, and where links point
    #[arg(long)]
    tree: bool,
}

/// An artifact that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectCommandError {
    /// It cannot be read.
    #[error(transparent)]
    Artifact(#[from] InspectError),
    /// The manifest beside it cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest beside it is refused.
    #[error("The manifest `{}` is not valid", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A file in it cannot be read.
    #[error(transparent)]
    Content(#[from] WorkloadError),
    /// The report cannot be written as JSON.
    #[error("Cannot write the report")]
    Json(#[source] serde_json::Error),
}

impl Failure for InspectCommandError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Artifact(error) => exit_code(error),
            Self::File(error) => error.exit_code(),
            Self::Manifest { .. } | Self::Content(_) => ExitCode::Invalid,
            Self::Json(_) => ExitCode::Internal,
        }
    }
}

/// The exit code that goes with an artifact that cannot be read.
pub(super) fn exit_code(error: &InspectError) -> ExitCode {
    match error {
        InspectError::NotFound { .. } => ExitCode::NotFound,
        InspectError::Spool(source) if source.kind() == io::ErrorKind::StorageFull => {
            ExitCode::Capacity
        }
        _ => ExitCode::Invalid,
    }
}

/// Shows the artifact.
///
/// # Errors
/// Where it, or the manifest beside it, cannot be read.
pub fn run(args: &InspectArgs, ui: &Ui) -> Result<(), InspectCommandError> {
    let artifact = inspect::read(&args.artifact)?;
    if args.tree {
        return list_tree(&artifact, args.json, ui);
    }
    let manifest = manifest_beside(&args.artifact)?;
    let report = report::compose(&artifact, manifest.as_ref())?;
    if args.json {
        print_json(&report, ui)?;
    } else {
        for line in lines(&args.artifact, &report) {
            ui.result(&line);
        }
    }
    Ok(())
}

/// Prints what is in the artifact, entry by entry.
fn list_tree(artifact: &Artifact, json: bool, ui: &Ui) -> Result<(), InspectCommandError> {
    let entries = listing::compose(&artifact.tree);
    if json {
        return print_json(&entries, ui);
    }
    for entry in entries {
        ui.result(&entry.line());
    }
    Ok(())
}

fn print_json(value: &impl Serialize, ui: &Ui) -> Result<(), InspectCommandError> {
    let json = serde_json::to_string_pretty(value).map_err(InspectCommandError::Json)?;
    ui.result(&json);
    Ok(())
}

fn manifest_beside(artifact: &Path) -> Result<Option<Manifest>, InspectCommandError> {
    let path = manifest_out::path_beside(artifact);
    let limit_bytes = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX);
    match small_file::read(&path, "manifest", limit_bytes) {
        Ok(text) => match Manifest::from_json(text.as_bytes()) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(source) => Err(InspectCommandError::Manifest { path, source }),
        },
        Err(FileError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn lines(path: &Path, report: &Report) -> Vec<String> {
    let entries = &report.entries;
    let mut lines = vec![
        format!("{}: {}", path.display(), kind(report)),
        format!("  size        {}", bytes(report.size_bytes)),
        format!("  digest      {}", report.digest),
        format!(
            "  entries     {}: {} files, {} directories, {} links, {} other",
            entries.all, entries.files, entries.directories, entries.links, entries.special
        ),
        format!("  contents    {}", bytes(report.content_bytes)),
        format!("  /init       {}", report.init.as_deref().unwrap_or("none")),
        format!(
            "  agent       {}",
            if report.has_agent {
                "/bin/kestrel"
            } else {
                "none"
            }
        ),
    ];
    if let Some(workload) = &report.workload {
        lines.push(format!("  entrypoint  {}", workload.entrypoint.join(" ")));
        lines.extend(
            workload
                .problem
                .iter()
                .map(|why| format!("              would not start: {why}")),
        );
    }
    if !report.without_loader.is_empty() {
        lines.push("Programs that would not start, and the loader they lack:".to_owned());
    }
    let without = report.without_loader.iter();
    lines.extend(without.map(|one| format!("  {}  {}", one.path, one.loader)));
    lines.extend(list("Largest files:", &report.largest_files));
    lines.extend(list("Largest directories:", &report.largest_directories));
    lines.push("What a boot costs, about:".to_owned());
    lines.extend(report.budget.iter().map(cost));
    lines
}

fn kind(report: &Report) -> String {
    let format = match report.format {
        Format::Initramfs => "initramfs",
        Format::Erofs => "EROFS image",
        Format::Ext4 => "ext4 image",
        Format::Squashfs => "squashfs image",
    };
    match report.packing {
        Packing::None => format.to_owned(),
        Packing::Gzip => format!("{format}, gzip"),
        Packing::Zstd => format!("{format}, zstd"),
        Packing::Xz => format!("{format}, xz"),
    }
}

fn list(title: &str, entries: &[Sized]) -> Vec<String> {
    if entries.is_empty() {
        return Vec::new();
    }
    let lines = entries.iter();
    let lines = lines.map(|one| format!("  {:>10}  {}", bytes(one.size_bytes), one.path));
    std::iter::once(title.to_owned()).chain(lines).collect()
}

/// One line of the boot budget.
fn cost(cost: &Cost) -> String {
    let name = cost.media.name();
    if cost.ram_mb == 0 {
        return format!("  {name:<27} nothing to unpack, no RAM that stays taken");
    }
    format!(
        "  {name:<27} {} ms to unpack, {} MB of RAM, {} MB while it boots",
        cost.unpack_ms, cost.ram_mb, cost.boot_ram_mb
    )
}

/// A size for people: `12.3 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = bytes / (unit / 10).max(1);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (size, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 kB"),
            (1_572_864, "1.5 MB"),
            (5 << 30, "5.0 GB"),
        ] {
            assert_eq!(bytes(size), expected);
        }
    }
}
