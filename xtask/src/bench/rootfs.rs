//! Turning a container image into an EROFS image, beside `umoci unpack` and `mkfs.erofs` that do the same.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use fs_err as fs;
use serde_json::json;

use super::{Cost, median, ratio, shell, timed};
use crate::oci_layout::{Layout, entry};
use crate::tally::Tally;
use crate::{packages, printer};

/// How large the image is unless asked otherwise, in MiB of files.
pub(super) const MIB: u32 = 1024;

/// Layers of the image.
const LAYERS: u32 = 10;

/// Files of each layer: with 1 GiB of ten layers about 100 KiB each, the usual mix of many small and a few large ones left aside.
const FILES: u32 = 1000;

const THEIRS: &str = "umoci unpack --image image:latest bundle \
    && mkfs.erofs --quiet -T0 theirs.erofs bundle/rootfs";
const CLEAN: &str = "rm -rf bundle theirs.erofs ours";

/// Measures and prints; skips where the others cannot run.
pub(super) fn measure(dist: &Path, rounds: u32, mib: u32, tally: &mut Tally) -> Result<()> {
    if !packages::is_root() {
        tally.skip(
            "the comparison with umoci and mkfs.erofs",
            "umoci keeps owners only as root",
        );
        return Ok(());
    }
    let work = tempfile::Builder::new()
        .prefix("volant-bench-")
        .tempdir()
        .context("No working directory")?;
    image(&work.path().join("image"), mib)?;
    fs::write(
        work.path().join("fledge.toml"),
        "version = \"1\"\nstrategy = \"oci_rootfs\"\n[source]\nimage = \"oci:image:latest\"\n",
    )?;
    let mut builds = Vec::new();
    let mut others = Vec::new();
    for round in 1..=rounds {
        shell(CLEAN, work.path())?;
        let mut fledge = Command::new(dist.join("fledge"));
        fledge
            .args(["build", "--output", "ours"])
            .current_dir(work.path());
        builds.push(timed(&mut fledge)?);
        others.push(shell(THEIRS, work.path())?);
        printer::progress("bench", &format!("image, round {round} of {rounds}"));
    }
    printer::result(&comparison(mib, median(builds), median(others)));
    tally.passed += 1;
    Ok(())
}

fn comparison(mib: u32, ours: Cost, theirs: Cost) -> String {
    let (own_s, other_s) = (ours.elapsed.as_secs_f64(), theirs.elapsed.as_secs_f64());
    let peak_mib = ours.peak_kib / 1024;
    let ratio = ratio(ours, theirs);
    [
        format!("{mib} MiB of files in {LAYERS} layers into EROFS:"),
        format!("fledge build                     {own_s:>8.3} s  {peak_mib:>6} MiB of memory"),
        format!("umoci unpack + mkfs.erofs        {other_s:>8.3} s"),
        format!("fledge takes 1/{ratio:.1} of the time"),
    ]
    .join("\n")
}

/// Writes an image whose files look a little like programs: half of their bytes compress well, half do not.
fn image(folder: &Path, mib: u32) -> Result<()> {
    let file_bytes = usize::try_from(u64::from(mib) * 1024 * 1024 / u64::from(LAYERS * FILES))?;
    let mut layout = Layout::begin(folder)?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut content = vec![0; file_bytes];
    for layer in 0..LAYERS {
        layout.layer(|tar| {
            for file in 0..FILES {
                let half = content.len() / 2;
                noise.fill(&mut content[..half]);
                let path = format!("usr/lib/layer{layer}/{}/file{file}", file % 37);
                entry(tar, &path, tar::EntryType::Regular, 0o755, &content)?;
            }
            Ok(())
        })?;
    }
    layout.finish(&json!({"Entrypoint": ["/usr/lib/layer0/0/file0"]}))
}

/// Bytes that do not compress and are the same in every run: xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_comparison_names_both_sides() {
        let cost = |seconds| Cost {
            elapsed: Duration::from_secs(seconds),
            peak_kib: 102_400,
        };
        let text = comparison(64, cost(2), cost(5));
        for there in ["64 MiB", "2.000 s", "100 MiB", "5.000 s", "1/2.5"] {
            assert!(text.contains(there), "{text}");
        }
    }

    #[test]
    fn noise_is_the_same_every_time() {
        let (mut one, mut other) = ([0; 20], [1; 20]);
        Noise(7).fill(&mut one);
        Noise(7).fill(&mut other);
        assert_eq!(one, other);
        assert_ne!(one[..8], one[8..16]);
    }
}
