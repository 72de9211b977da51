//! The rules of `[filesystem]`.

use super::given;
use crate::build_spec::document::Findings;
use crate::build_spec::raw::{self, FilesystemType};
use crate::build_spec::{
    DEFAULT_SQUASHFS_LEVEL, Filesystem, FilesystemKind, MAX_COMPRESSION_LEVEL, MAX_SIZE_BUFFER_MB,
    shown,
};
use crate::manifest::{MAX_WRITABLE_MB, MIN_WRITABLE_MB};

/// The file system that `raw` describes; the default one if there is none.
pub(super) fn filesystem(
    raw: Option<&raw::Filesystem>,
    found: &mut Findings,
) -> Option<Filesystem> {
    let Some(raw) = raw else {
        return Some(Filesystem::default());
    };
    let kind = kind(raw, found);
    let writable_mb = writable_mb(raw, found);
    Some(Filesystem {
        kind: kind?,
        writable_mb,
        ephemeral: raw.ephemeral,
    })
}

fn kind(raw: &raw::Filesystem, found: &mut Findings) -> Option<FilesystemKind> {
    let kind = raw.kind.unwrap_or(FilesystemType::Erofs);
    if matches!(kind, FilesystemType::Xfs | FilesystemType::Btrfs) {
        found.value(
            "/filesystem/type",
            "xfs and btrfs cannot be written without root, nor twice the same: use \"erofs\", \"ext4\" or \"squashfs\"",
        );
        return None;
    }
    for (key, is_given, owner, name) in [
        (
            "compression_level",
            raw.compression_level.is_some(),
            FilesystemType::Squashfs,
            "squashfs",
        ),
        (
            "size_buffer_mb",
            raw.size_buffer_mb.is_some(),
            FilesystemType::Ext4,
            "ext4",
        ),
        (
            "preallocate",
            raw.preallocate == Some(true),
            FilesystemType::Ext4,
            "ext4",
        ),
    ] {
        if is_given && owner != kind {
            let sentence = format!(
                "`filesystem.{key}` has a meaning with type \"{name}\" only: write type = \"{name}\", or remove it"
            );
            found.key(&format!("/filesystem/{key}"), sentence);
        }
    }
    let level = raw.compression_level.unwrap_or(0);
    if level > MAX_COMPRESSION_LEVEL {
        let sentence =
            format!("`filesystem.compression_level` must be 0 to {MAX_COMPRESSION_LEVEL}");
        found.value("/filesystem/compression_level", sentence);
    }
    let size_buffer_mb = raw.size_buffer_mb.unwrap_or(0);
    if size_buffer_mb > MAX_SIZE_BUFFER_MB {
        let sentence =
            format!("`filesystem.size_buffer_mb` must be 0 to {MAX_SIZE_BUFFER_MB} (in MiB)");
        found.value("/filesystem/size_buffer_mb", sentence);
    }
    Some(match kind {
        FilesystemType::Ext4 => FilesystemKind::Ext4 {
            size_buffer_mb,
            preallocate: raw.preallocate.unwrap_or(false),
        },
        FilesystemType::Squashfs => FilesystemKind::Squashfs {
            compression_level: if level == 0 {
                DEFAULT_SQUASHFS_LEVEL
            } else {
                level
            },
        },
        FilesystemType::Erofs | FilesystemType::Xfs | FilesystemType::Btrfs => {
            FilesystemKind::Erofs
        }
    })
}

fn writable_mb(raw: &raw::Filesystem, found: &mut Findings) -> Option<u32> {
    let (size_mb, place) = match (given(raw.overlay_size.as_ref()), raw.writable_mb) {
        (Some(_), Some(_)) => {
            found.key(
                "/filesystem/writable_mb",
                "`overlay_size` and `writable_mb` say the same: keep one",
            );
            return None;
        }
        (Some(text), None) => {
            let size_mb = mebibytes(text);
            if size_mb.is_none() {
                let sentence = format!(
                    "`{}` is not a size: write a number with M or G, such as \"512M\" or \"1G\"",
                    shown(text)
                );
                found.value("/filesystem/overlay_size", sentence);
            }
            (size_mb?, "/filesystem/overlay_size")
        }
        (None, Some(size_mb)) => (u64::from(size_mb), "/filesystem/writable_mb"),
        (None, None) => return None,
    };
    let allowed = u32::try_from(size_mb)
        .ok()
        .filter(|size_mb| (MIN_WRITABLE_MB..=MAX_WRITABLE_MB).contains(size_mb));
    if allowed.is_none() {
        let sentence = format!(
            "The writable layer must have {MIN_WRITABLE_MB} to {MAX_WRITABLE_MB} MiB (1 TiB)"
        );
        found.value(place, sentence);
    }
    allowed
}

/// A size such as `512M`, `1G`, `1GiB` or `65536K` in MiB, rounded up.
fn mebibytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let number: u64 = number.parse().ok()?;
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    let kibibytes = match unit.strip_suffix('I').unwrap_or(unit) {
        "K" => 1_u64,
        "M" => 1 << 10,
        "G" => 1 << 20,
        "T" => 1 << 30,
        _ => return None,
    };
    Some(number.checked_mul(kibibytes)?.div_ceil(1 << 10))
}
