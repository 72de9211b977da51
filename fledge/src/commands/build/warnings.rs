//! What a build warns of without failing: what the format of the artifact cannot keep, and a name that promises another one.

use std::path::Path;

use common::build_spec::{FilesystemKind, Output};

use crate::tree::Tree;
use crate::ui::Ui;

/// How many names of extended attributes are told.
const MAX_TOLD: usize = 5;

/// The endings of names that promise a format.
const ENDINGS: [(&str, &str); 5] = [
    ("erofs", EROFS),
    ("ext4", EXT4),
    ("squashfs", SQUASHFS),
    ("sqfs", SQUASHFS),
    ("cpio", INITRAMFS),
];

const EROFS: &str = "an EROFS image";
const EXT4: &str = "an ext4 image";
const SQUASHFS: &str = "a squashfs image";
const INITRAMFS: &str = "an initramfs";

/// Removes the extended attributes from `tree` if `output` is an archive that cannot hold them, and warns of that once.
pub(super) fn drop_attributes(tree: &mut Tree, output: &Output, ui: &Ui) {
    if matches!(output, Output::Initramfs { .. })
        && let Some(line) = dropped_attributes(tree)
    {
        ui.warn(&line);
    }
}

fn dropped_attributes(tree: &mut Tree) -> Option<String> {
    let dropped = tree.retain_xattrs(|_| false);
    if dropped.is_empty() {
        return None;
    }
    let mut told: Vec<String> = dropped
        .iter()
        .take(MAX_TOLD)
        .map(|(name, count)| {
            let name = String::from_utf8_lossy(name);
            format!("`{}` ({count})", name.escape_debug())
        })
        .collect();
    if let Some(more @ 1..) = dropped.len().checked_sub(MAX_TOLD) {
        told.push(format!("{more} more"));
    }
    Some(format!(
        "an initramfs keeps no extended attributes; left out, with the number of files: {}",
        told.join(", ")
    ))
}

/// Warns where the name of the artifact at `path` promises another format than `output` is.
pub(super) fn of_name(path: &Path, output: &Output, ui: &Ui) {
    if let Some(line) = contradiction(path, output) {
        ui.warn(&line);
    }
}

fn contradiction(path: &Path, output: &Output) -> Option<String> {
    let is = match output {
        Output::Initramfs { .. } => INITRAMFS,
        Output::Rootfs(filesystem) => match filesystem.kind {
            FilesystemKind::Erofs => EROFS,
            FilesystemKind::Ext4 { .. } => EXT4,
            FilesystemKind::Squashfs { .. } => SQUASHFS,
        },
    };
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    // `app.cpio.gz` is told by what is before the compression.
    let bare = [".gz", ".zst"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    let (_, ending) = bare.rsplit_once('.')?;
    let (_, promised) = ENDINGS.iter().find(|(known, _)| *known == ending)?;
    (*promised != is).then(|| format!("`{}` sounds like {promised}, but is {is}", path.display()))
}

#[cfg(test)]
mod tests {
    use common::build_spec::Filesystem;

    use super::*;
    use crate::tree::{Content, Node};

    #[test]
    fn a_name_that_promises_another_format_is_told() {
        let erofs = Output::Rootfs(Filesystem {
            kind: FilesystemKind::Erofs,
            ..Filesystem::default()
        });
        for (name, output, is_told) in [
            ("a/app.ext4", &erofs, true),
            ("APP.SquashFS", &erofs, true),
            ("app.cpio.gz", &erofs, true),
            ("x.erofs", &Output::default(), true),
            ("x.sqfs", &Output::default(), true),
            ("app.erofs", &erofs, false),
            ("app.img", &erofs, false),
            ("app", &erofs, false),
            ("app.ext4.old", &erofs, false),
            ("plugin.cpio.zst", &Output::default(), false),
        ] {
            let line = contradiction(Path::new(name), output);
            assert_eq!(line.is_some(), is_told, "{name}: {line:?}");
        }
        assert_eq!(
            contradiction(Path::new("app.ext4"), &erofs).unwrap(),
            "`app.ext4` sounds like an ext4 image, but is an EROFS image"
        );
    }

    #[test]
    fn attributes_are_dropped_with_one_warning() {
        let mut tree = Tree::default();
        for name in ["a", "b"] {
            let mut node = Node::file(0o644, Content::Bytes(Vec::new()));
            let xattrs = &mut node.attributes.xattrs;
            xattrs.insert(b"security.capability".to_vec(), vec![1]);
            tree.replace(name.as_bytes(), node).unwrap();
        }
        let line = dropped_attributes(&mut tree).unwrap();
        assert!(line.ends_with("files: `security.capability` (2)"), "{line}");
        assert_eq!(dropped_attributes(&mut tree), None);
    }
}
