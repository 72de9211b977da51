//! `fledge diff`: says why two artifacts are not the same. Writes nothing.

use std::path::PathBuf;

use clap::Args;
use common::digest::Digest;
use common::exit_code::ExitCode;
use serde::Serialize;

use super::Failure;
use crate::inspect::differences::{self, Change, CompareError, Difference};
use crate::inspect::{self, Artifact, InspectError};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge diff mine.cpio.gz theirs.cpio.gz
      every path that was added (+), removed (-) or changed (~), and what about it
  fledge diff plugin.cpio.gz plugin.erofs
      whether two formats hold the same tree
  fledge diff a.cpio.gz b.cpio.gz --json

The exit code is 0 if the two files are the same byte by byte, 1 if they differ, if only in how they are packed, and 2 if they
cannot be compared; 3 if one is missing.";

/// Flags of `fledge diff`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DiffArgs {
    /// The first artifact
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The second artifact
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Artifacts that cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// One cannot be read.
    #[error(transparent)]
    Artifact(#[from] InspectError),
    /// A file in one cannot be read.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The differences cannot be written as JSON.
    #[error("Cannot write the differences")]
    Json(#[source] serde_json::Error),
}

impl Failure for DiffError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Artifact(InspectError::NotFound { .. }) => ExitCode::NotFound,
            // As diff(1): 1 means that there are differences. Usage is 2 too.
            Self::Artifact(_) | Self::Compare(_) | Self::Json(_) => ExitCode::Usage,
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    /// Byte by byte.
    same: bool,
    /// The same tree, packed differently.
    packing_only: bool,
    first: Digest,
    second: Digest,
    differences: &'a [Difference],
}

/// Compares, and returns the exit code: [`ExitCode::Success`] if the files are the same, else [`ExitCode::Invalid`], which is 1.
///
/// # Errors
/// Where one cannot be read.
pub fn run(args: &DiffArgs, ui: &Ui) -> Result<ExitCode, DiffError> {
    let first = inspect::read(&args.first)?;
    let second = inspect::read(&args.second)?;
    let is_same = first.digest == second.digest;
    let differences = if is_same {
        Vec::new()
    } else {
        differences::compare(&first.tree, &second.tree)?
    };
    if args.json {
        let answer = Answer {
            same: is_same,
            packing_only: !is_same && differences.is_empty(),
            first: first.digest,
            second: second.digest,
            differences: &differences,
        };
        let json = serde_json::to_string_pretty(&answer).map_err(DiffError::Json)?;
        ui.result(&json);
    } else {
        for line in lines(args, &first, &second, &differences) {
            ui.result(&line);
        }
    }
    Ok(if is_same {
        ExitCode::Success
    } else {
        ExitCode::Invalid
    })
}

fn lines(
    args: &DiffArgs,
    first: &Artifact,
    second: &Artifact,
    differences: &[Difference],
) -> Vec<String> {
    if first.digest == second.digest {
        return vec!["the same, byte by byte".to_owned()];
    }
    if differences.is_empty() {
        let shown = |path: &PathBuf, artifact: &Artifact| {
            format!(
                "  {}: {:?}, {:?}, {} bytes",
                path.display(),
                artifact.format,
                artifact.packing,
                artifact.size_bytes
            )
            .to_lowercase()
        };
        return vec![
            "the same tree, packed differently: another format, level, version or order".to_owned(),
            shown(&args.first, first),
            shown(&args.second, second),
        ];
    }
    differences.iter().map(line).collect()
}

fn line(difference: &Difference) -> String {
    let path = &difference.path;
    match &difference.change {
        Change::Added => format!("+ {path}"),
        Change::Removed => format!("- {path}"),
        Change::Changed(aspects) => {
            let aspects: Vec<_> = aspects.iter().map(ToString::to_string).collect();
            format!("~ {path}: {}", aspects.join(", "))
        }
    }
}
