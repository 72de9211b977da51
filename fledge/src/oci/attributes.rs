//! Extended attributes that no Linux can set, which images have from other systems: an artifact leaves them out, and the build says so.
//! What Linux can set is kept as it is.

use crate::tree::Tree;

/// The namespaces of Linux in which every name can be set (xattr(7)), and its access control lists, which are whole names
/// (`include/uapi/linux/xattr.h`).
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// How many names are told: an image may have one for every file.
const MAX_TOLD: usize = 10;

/// How much of a name is told, in characters.
const MAX_SHOWN_CHARS: usize = 100;

/// Removes what Linux cannot set, and returns what is to be said about it.
pub(super) fn strip(tree: &mut Tree) -> Vec<String> {
    let removed = tree.retain_xattrs(is_settable);
    let mut lines: Vec<String> = removed
        .iter()
        .take(MAX_TOLD)
        .map(|(name, count)| {
            let name = String::from_utf8_lossy(name);
            let name: String = name.chars().take(MAX_SHOWN_CHARS).collect();
            let of = if *count == 1 { "one file" } else { "files" };
            let count = if *count == 1 {
                String::new()
            } else {
                format!("{count} ")
            };
            format!(
                "the extended attribute `{}` of {count}{of} is left out: Linux cannot set it",
                name.escape_debug()
            )
        })
        .collect();
    if let Some(more @ 1..) = removed.len().checked_sub(MAX_TOLD) {
        lines.push(format!(
            "{more} more extended attributes are left out: Linux cannot set them"
        ));
    }
    lines
}

fn is_settable(name: &[u8]) -> bool {
    let in_namespace = |start: &&[u8]| name.len() > start.len() && name.starts_with(start);
    NAMESPACES.iter().any(in_namespace) || ACCESS_LISTS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Node};

    fn with(names: &[String]) -> Node {
        let mut node = Node::file(0o644, Content::Bytes(Vec::new()));
        for name in names {
            let name = name.clone().into_bytes();
            node.attributes.xattrs.insert(name, b"x".to_vec());
        }
        node
    }

    #[test]
    fn what_linux_cannot_set_is_left_out_and_told() {
        let names = [
            "user.a",
            "security.capability",
            "trusted.x",
            "system.posix_acl_access",
            "com.apple.quarantine",
            "system.nfs4_acl",
            "user.",
        ];
        let names = names.map(str::to_owned);
        let mut tree = Tree::default();
        tree.replace(b"a", with(&names)).unwrap();
        tree.hard_link(b"b", b"a").unwrap();
        tree.replace(b"c", with(&names[4..5])).unwrap();
        assert_eq!(
            strip(&mut tree),
            [
                "the extended attribute `com.apple.quarantine` of 2 files is left out: Linux cannot set it",
                "the extended attribute `system.nfs4_acl` of one file is left out: Linux cannot set it",
                "the extended attribute `user.` of one file is left out: Linux cannot set it",
            ]
        );
        let kept = &tree.get(b"b").unwrap().attributes.xattrs;
        let kept: Vec<_> = kept
            .keys()
            .map(|name| str::from_utf8(name).unwrap())
            .collect();
        assert_eq!(
            kept,
            [
                "security.capability",
                "system.posix_acl_access",
                "trusted.x",
                "user.a"
            ]
        );
        assert_eq!(strip(&mut tree), [""; 0]);
    }

    #[test]
    fn what_is_told_is_bounded() {
        let names: Vec<String> = (0..1000).map(|at| format!("x{at:\n>300}")).collect();
        let mut tree = Tree::default();
        tree.replace(b"a", with(&names)).unwrap();
        let lines = strip(&mut tree);
        assert_eq!(lines.len(), 11);
        assert!(lines[10].starts_with("990 more"), "{}", lines[10]);
        assert!(
            lines
                .iter()
                .all(|line| line.len() < 400 && !line.contains('\n'))
        );
    }
}
