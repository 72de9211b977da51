//! Rules about files of any kind: nothing in them that only holds on one machine, and nothing large that is no text.

use super::Finding;
use super::source::{Tree, has_extension};

/// What a file that is no text may weigh.
const MAX_BINARY_BYTES: usize = 100 * 1024;

/// Beginnings of paths that exist on somebody's machine, in two halves, as this file is checked, too.
const MACHINE_PATHS: &[(&str, &str)] =
    &[("/root", "/.cargo"), ("/Users", "/"), ("/home", "/user/")];

/// Looks for such paths in every text but the lock file, which cargo writes.
pub(super) fn portable(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        if path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let place = || format!("{path}:{}", number + 1);
            for (one, other) in MACHINE_PATHS {
                if line.contains(&format!("{one}{other}")) {
                    findings.push(Finding::new(
                        place(),
                        format!("Names `{one}{other}`, a path of one machine"),
                    ));
                }
            }
        }
    }
    findings
}

/// Artifacts are built or fetched by digest, never kept in git.
pub(super) fn no_binaries(tree: &Tree) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.bytes > MAX_BINARY_BYTES)
        .filter(|file| file.text.is_none() || is_packed(&file.path))
        .map(|file| {
            Finding::new(
                &file.path,
                format!(
                    "Is {} bytes of no text; build it, or fetch it by its digest",
                    file.bytes
                ),
            )
        })
        .collect()
}

fn is_packed(path: &str) -> bool {
    ["gz", "img", "xz", "zip", "zst"]
        .iter()
        .any(|extension| has_extension(path, extension))
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::*;

    fn tree(path: &str, content: &[u8]) -> Tree {
        Tree {
            files: vec![File::new(path, content.to_vec())],
        }
    }

    #[test]
    fn paths_of_one_machine() {
        let bad = format!("cd {}{}bin", "/root", "/.cargo/");
        let found = portable(&tree("docs/a.md", format!("fine\n{bad}\n").as_bytes()));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "docs/a.md:2");
        for line in [
            "https://github.com/volantvm",
            "/var/lib/volant",
            "HOME=/root",
        ] {
            assert_eq!(portable(&tree("docs/a.md", line.as_bytes())), []);
        }
        assert_eq!(portable(&tree("Cargo.lock", bad.as_bytes())), []);
    }

    #[test]
    fn binaries() {
        let large = vec![0; MAX_BINARY_BYTES + 1];
        assert_eq!(no_binaries(&tree("a/vmlinux", &large)).len(), 1);
        assert_eq!(no_binaries(&tree("a/vmlinux", &large[1..])).len(), 0);
        let text = vec![b'a'; MAX_BINARY_BYTES + 1];
        assert_eq!(no_binaries(&tree("a/openapi.json", &text)).len(), 0);
        assert_eq!(no_binaries(&tree("a/plugin.cpio.gz", &text)).len(), 1);
    }
}
