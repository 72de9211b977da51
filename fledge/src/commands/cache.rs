//! `fledge cache`: shows what was downloaded and kept, and removes what is old or too much.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use common::exit_code::ExitCode;
use serde::Serialize;

use super::Failure;
use super::inspect::bytes;
use crate::cache::{self, CacheError, Entry, Policy};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  fledge cache ls
      what is kept, the least recently used first
  fledge cache gc --dry-run
      what would be removed
  fledge cache gc --max-age 2w --max-size 5GB
      keep what was used in the last two weeks, and of that no more than 5 GB

The cache is $XDG_CACHE_HOME/fledge, else ~/.cache/fledge. What is removed is downloaded again when a build needs it.";

/// Flags of `fledge cache`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List what is kept
    Ls(LsArgs),
    /// Remove what is old or too much
    Gc(GcArgs),
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct GcArgs {
    /// Remove what was not used for so long, such as 12h, 30d or 2w
    #[arg(long, value_name = "TIME", default_value = "30d")]
    max_age: Age,
    /// Remove the least recently used until no more than this is left, such as 500MB or 5GB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// A time that something may lie unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age(Duration);

impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNITS: &[(&str, u64)] = &[
            ("w", 7 * 86_400),
            ("d", 86_400),
            ("h", 3600),
            ("m", 60),
            ("s", 1),
        ];
        scaled(text, UNITS)
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or("write a number and one of s, m, h, d or w, such as 30d")
    }
}

/// An amount of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The longest unit first: `B` ends them all.
        const UNITS: &[(&str, u64)] = &[
            ("GB", 1 << 30),
            ("MB", 1 << 20),
            ("kB", 1 << 10),
            ("G", 1 << 30),
            ("M", 1 << 20),
            ("k", 1 << 10),
            ("B", 1),
        ];
        scaled(text, UNITS)
            .map(Self)
            .ok_or("write a number and one of B, kB, MB or GB, such as 5GB")
    }
}

/// A number with one of the units behind it.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, factor)| {
        let number = text.trim().strip_suffix(unit)?;
        number.trim().parse::<u64>().ok()?.checked_mul(*factor)
    })
}

/// A cache that cannot be shown or cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum CacheCommandError {
    /// See there.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The list cannot be written as JSON.
    #[error("Cannot write the list")]
    Json(#[source] serde_json::Error),
}

impl Failure for CacheCommandError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Cache(CacheError::InUse { .. }) => ExitCode::Conflict,
            Self::Cache(CacheError::Read { .. } | CacheError::Remove { .. }) => ExitCode::Invalid,
            Self::Json(_) => ExitCode::Internal,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::Cache(CacheError::InUse { .. }) => {
                vec!["try again when it is done; --dry-run works at any time".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Shows the cache, or cleans it up.
///
/// # Errors
/// Where it cannot be read, or a build is using it.
pub fn run(args: &CacheArgs, ui: &Ui) -> Result<(), CacheCommandError> {
    let directory = cache::default_directory();
    let now = SystemTime::now();
    match &args.command {
        CacheCommand::Ls(args) => ls(&directory, args, now, ui),
        CacheCommand::Gc(args) => Ok(gc(&directory, args, now, ui)?),
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a Path,
    size_bytes: u64,
    unused_s: u64,
}

fn ls(directory: &Path, args: &LsArgs, now: SystemTime, ui: &Ui) -> Result<(), CacheCommandError> {
    let entries = cache::list(directory)?;
    if args.json {
        let listed: Vec<_> = entries
            .iter()
            .map(|entry| Listed {
                name: &entry.name,
                size_bytes: entry.size_bytes,
                unused_s: unused(entry, now).as_secs(),
            })
            .collect();
        ui.result(&serde_json::to_string_pretty(&listed).map_err(CacheCommandError::Json)?);
        return Ok(());
    }
    for entry in &entries {
        ui.result(&line(entry, now));
    }
    let sum = bytes(entries.iter().map(|entry| entry.size_bytes).sum());
    ui.note(&format!(
        "{}: {} files, {sum}",
        directory.display(),
        entries.len()
    ));
    Ok(())
}

fn gc(directory: &Path, args: &GcArgs, now: SystemTime, ui: &Ui) -> Result<(), CacheError> {
    let policy = Policy {
        max_age: Some(args.max_age.0),
        max_size_bytes: args.max_size.map(|size| size.0),
    };
    let (removed, left_bytes, verb) = if args.dry_run {
        let entries = cache::list(directory)?;
        let removed = cache::superfluous(&entries, &policy, now);
        let left_bytes = total(&entries) - total(&removed);
        (removed, left_bytes, "would remove")
    } else {
        let (removed, left_bytes) = cache::clean(directory, &policy, now)?;
        (removed, left_bytes, "removed")
    };
    for entry in &removed {
        ui.detail(&line(entry, now));
    }
    ui.result(&format!(
        "{verb} {} files, {}; {} stay",
        removed.len(),
        bytes(total(&removed)),
        bytes(left_bytes)
    ));
    Ok(())
}

fn total(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.size_bytes).sum()
}

fn unused(entry: &Entry, now: SystemTime) -> Duration {
    now.duration_since(entry.used).unwrap_or_default()
}

fn line(entry: &Entry, now: SystemTime) -> String {
    let days = unused(entry, now).as_secs() / 86_400;
    let ago = match days {
        0 => "today".to_owned(),
        1 => "1 day ago".to_owned(),
        days => format!("{days} days ago"),
    };
    let name: &PathBuf = &entry.name;
    format!(
        "{:>10}  {ago:>13}  {}",
        bytes(entry.size_bytes),
        name.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_read() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_secs(seconds))));
        }
        for (text, bytes) in [
            ("0B", 0),
            ("2kB", 2048),
            ("500 MB", 500 << 20),
            ("5G", 5 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in [
            "",
            "d",
            "1",
            "-1d",
            "1y",
            "99999999999999999999d",
            "18446744073709551615w",
        ] {
            assert!(text.parse::<Age>().is_err(), "{text}");
        }
        for text in ["", "GB", "1.5GB", "5TB", "99999999999GB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
