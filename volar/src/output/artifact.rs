//! Artifacts and the disk that they take, for people. Pure text.

use common::api::{ArtifactUsers, DiskUse, Pruned, StoredArtifact};
use common::name::Name;
use jiff::Timestamp;

use super::{age, size, table};

/// How many characters of a digest are shown where there is little room: `sha256:` and twelve digits.
const SHORT_DIGEST_CHARS: usize = 19;

/// The table of `artifacts list`.
pub fn artifact_table(artifacts: &[StoredArtifact], wide: bool, now: Timestamp) -> String {
    if artifacts.is_empty() {
        return "No artifacts".to_owned();
    }
    let rows: Vec<Vec<String>> = artifacts
        .iter()
        .map(|artifact| {
            let digest = artifact.digest.to_string();
            let length = if wide {
                digest.len()
            } else {
                SHORT_DIGEST_CHARS
            };
            vec![
                digest.chars().take(length).collect(),
                size(artifact.size_bytes),
                pinned(artifact).to_owned(),
                artifact.signature.as_str().to_owned(),
                used_by(&artifact.used_by, wide),
                age(&artifact.added_at, now),
            ]
        })
        .collect();
    table::render(
        &["DIGEST", "SIZE", "PINNED", "SIGNATURE", "USED BY", "AGE"],
        &rows,
    )
}

fn pinned(artifact: &StoredArtifact) -> &'static str {
    if artifact.pinned { "yes" } else { "no" }
}

/// Names if there is room for them, else how many.
fn used_by(users: &ArtifactUsers, wide: bool) -> String {
    let kinds = [("plugin", &users.plugins), ("VM", &users.vms)];
    let parts: Vec<String> = kinds
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(noun, names)| match (names.as_slice(), wide) {
            ([name], _) => format!("{noun} {name}"),
            (names, true) => {
                let names: Vec<&str> = names.iter().map(Name::as_str).collect();
                format!("{noun}s {}", names.join(" "))
            }
            (names, false) => format!("{} {noun}s", names.len()),
        })
        .collect();
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

/// All that is known of an artifact.
pub fn artifact_details(artifact: &StoredArtifact) -> String {
    let names = |names: &[Name]| {
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        names.join("\n")
    };
    table::details(&[
        ("Digest", artifact.digest.to_string()),
        ("Size", size(artifact.size_bytes)),
        ("Pinned", pinned(artifact).to_owned()),
        ("Signature", artifact.signature.as_str().to_owned()),
        ("Added", artifact.added_at.clone()),
        ("Plugins", names(&artifact.used_by.plugins)),
        ("VMs", names(&artifact.used_by.vms)),
    ])
}

/// What was removed, or would be.
pub fn pruned(what: &Pruned) -> String {
    let (verb, freed) = if what.dry_run {
        ("Would remove", "would be free")
    } else {
        ("Removed", "are free")
    };
    if what.removed.is_empty() {
        return "Nothing to remove".to_owned();
    }
    let lines: Vec<String> = what
        .removed
        .iter()
        .map(|artifact| format!("{verb} {}, {}", artifact.digest, size(artifact.size_bytes)))
        .collect();
    format!("{}\n{} {freed}", lines.join("\n"), size(what.freed_bytes))
}

/// The table of `system df`.
pub fn usage_table(usage: &DiskUse) -> String {
    let rows: Vec<Vec<String>> = usage
        .items
        .iter()
        .map(|item| {
            vec![
                item.kind.clone(),
                item.files.to_string(),
                size(item.size_bytes),
            ]
        })
        .collect();
    let table = table::render(&["KIND", "FILES", "SIZE"], &rows);
    format!(
        "{table}\n\n{} can be reclaimed with `volar system prune`; {} of {} are free on the disk",
        size(usage.reclaimable_bytes),
        size(usage.disk_free_bytes),
        size(usage.disk_total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use common::api::{DiskItem, PrunedArtifact, SignatureState};

    use super::*;

    #[test]
    fn tables_have_what_fits() {
        let digest: common::digest::Digest =
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
                .parse()
                .unwrap();
        let artifact = StoredArtifact {
            digest,
            size_bytes: 2048,
            added_at: "2026-11-23T10:00:00Z".to_owned(),
            pinned: true,
            signature: SignatureState::Verified,
            used_by: ArtifactUsers {
                plugins: vec!["caddy".parse().unwrap()],
                vms: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            },
        };
        let now = "2026-11-23T10:05:00Z".parse().unwrap();
        insta::assert_snapshot!(artifact_table(std::slice::from_ref(&artifact), false, now), @r"
        DIGEST                SIZE      PINNED   SIGNATURE   USED BY               AGE
        sha256:e3b0c44298fc   2.0 KiB   yes      verified    plugin caddy, 2 VMs   5m
        ");
        let wide = artifact_table(std::slice::from_ref(&artifact), true, now);
        assert!(wide.contains("plugin caddy, VMs a b"), "{wide}");
        assert!(artifact_details(&artifact).contains("VMs         a\n            b\n"));
        let usage = DiskUse {
            items: vec![DiskItem {
                kind: "artifacts".to_owned(),
                files: 3,
                size_bytes: 4096,
            }],
            reclaimable_bytes: 1024,
            disk_total_bytes: 10 * 1024,
            disk_free_bytes: 5 * 1024,
        };
        insta::assert_snapshot!(usage_table(&usage), @r"
        KIND        FILES   SIZE
        artifacts   3       4.0 KiB

        1.0 KiB can be reclaimed with `volar system prune`; 5.0 KiB of 10.0 KiB are free on the disk
        ");
        let mut what = Pruned {
            dry_run: true,
            removed: vec![PrunedArtifact {
                digest,
                size_bytes: 1,
            }],
            freed_bytes: 1,
        };
        assert_eq!(
            pruned(&what),
            format!("Would remove {digest}, 1 B\n1 B would be free")
        );
        what.removed.clear();
        assert_eq!(pruned(&what), "Nothing to remove");
    }
}
