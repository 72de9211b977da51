//! Says what an artifact costs each VM, and stops a build that costs too much.

use std::path::Path;

use common::build_spec::Output;

use super::BuildError;
use crate::budget::{self, Cost, Media, Sizes};
use crate::tree::Tree;

/// What an artifact may cost; nothing means any amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time to unpack it, in milliseconds.
    pub unpack_ms: Option<u64>,
    /// Memory while it boots, in MiB.
    pub memory_mib: Option<u64>,
}

/// What the artifact's tree costs on each boot media, as a line for each; the one that Volant boots is marked.
///
/// # Errors
/// Where the one that Volant boots costs more than `limits` allow.
pub(super) fn judge(
    path: &Path,
    tree: &Tree,
    output: &Output,
    limits: &Limits,
) -> Result<Vec<String>, BuildError> {
    // volantd unpacks an archive when it is installed, whatever compresses it.
    let booted = match output {
        Output::Initramfs { .. } => Media::PlainInitramfs,
        Output::Rootfs(_) => Media::Disk,
    };
    let costs = budget::estimate(&Sizes::of(tree));
    for cost in costs.iter().filter(|cost| cost.media == booted) {
        exceeds(path, ("time", "ms"), cost.unpack_ms, limits.unpack_ms)?;
        exceeds(path, ("memory", "MiB"), cost.boot_ram_mb, limits.memory_mib)?;
    }
    let lines = costs.iter().map(|cost| {
        let mark = if cost.media == booted {
            "; volantd boots it so"
        } else {
            ""
        };
        format!("boot budget: {}{mark}", line(cost))
    });
    Ok(lines.collect())
}

fn line(cost: &Cost) -> String {
    let Cost {
        media,
        unpack_ms,
        ram_mb,
        boot_ram_mb,
    } = cost;
    format!(
        "{}: about {unpack_ms} ms to unpack, {ram_mb} MiB of each VM's memory, {boot_ram_mb} MiB while it boots",
        media.name()
    )
}

fn exceeds(
    path: &Path,
    (what, unit): (&'static str, &'static str),
    found: u64,
    limit: Option<u64>,
) -> Result<(), BuildError> {
    match limit {
        Some(limit) if found > limit => Err(BuildError::Budget {
            path: path.to_path_buf(),
            what,
            unit,
            found,
            limit,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_a_line_and_one_is_marked() {
        let limits = Limits::default();
        for (output, booted) in [
            (Output::default(), "initramfs, not compressed: "),
            (
                Output::Rootfs(common::build_spec::Filesystem::default()),
                "root file system on a disk: ",
            ),
        ] {
            let lines = judge(Path::new("x"), &Tree::default(), &output, &limits).unwrap();
            assert_eq!(lines.len(), 5);
            let mut marked = lines.iter().filter(|line| line.ends_with("boots it so"));
            assert!(marked.next().unwrap().contains(booted), "{lines:?}");
            assert_eq!(marked.next(), None);
        }
    }

    #[test]
    fn a_budget_is_kept_up_to_its_limit() {
        assert!(exceeds(Path::new("x"), ("time", "ms"), 5, None).is_ok());
        assert!(exceeds(Path::new("x"), ("time", "ms"), 5, Some(5)).is_ok());
        let error = exceeds(Path::new("x"), ("time", "ms"), 6, Some(5))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "The artifact `x` costs 6 ms of time while a VM boots, and the budget is 5 ms"
        );
    }
}
