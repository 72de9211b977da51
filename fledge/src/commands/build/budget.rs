//! Says what an artifact costs each VM, and stops a build that costs too much.

use common::build_spec::Output;

use super::BuildError;
use crate::budget::{self, Cost, Media, Sizes};
use crate::tree::Tree;
use crate::ui::Ui;

/// What an artifact may cost; nothing means any amount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time to unpack it, in milliseconds.
    pub unpack_ms: Option<u64>,
    /// Memory while it boots, in MiB.
    pub memory_mib: Option<u64>,
}

/// What the one that Volant boots costs, as a line; of the others the curious are told.
///
/// # Errors
/// Where the one that Volant boots costs more than `limits` allow.
pub(super) fn judge(
    tree: &Tree,
    output: &Output,
    limits: &Limits,
    ui: &Ui,
) -> Result<String, BuildError> {
    // volantd unpacks an archive when it is installed, whatever compresses it.
    let booted = match output {
        Output::Initramfs { .. } => Media::PlainInitramfs,
        Output::Rootfs(_) => Media::Disk,
    };
    let costs = budget::estimate(&Sizes::of(tree));
    for cost in &costs {
        if cost.media == booted {
            exceeds("time", "ms", cost.unpack_ms, limits.unpack_ms)?;
            exceeds("memory", "MiB", cost.boot_ram_mb, limits.memory_mib)?;
        } else {
            ui.detail(&format!("boot budget of another kind: {}", line(cost)));
        }
    }
    let booted = costs.iter().find(|cost| cost.media == booted);
    Ok(format!(
        "boot budget: {}",
        booted.map(line).unwrap_or_default()
    ))
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
    what: &'static str,
    unit: &'static str,
    found: u64,
    limit: Option<u64>,
) -> Result<(), BuildError> {
    match limit {
        Some(limit) if found > limit => Err(BuildError::Budget {
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
    fn a_budget_is_kept_up_to_its_limit() {
        assert!(exceeds("time", "ms", 5, None).is_ok());
        assert!(exceeds("time", "ms", 5, Some(5)).is_ok());
        let error = exceeds("time", "ms", 6, Some(5)).unwrap_err().to_string();
        assert_eq!(
            error,
            "The artifact costs 6 ms of time in each VM, and the budget is 5 ms"
        );
    }
}
