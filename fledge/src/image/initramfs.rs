//! A file tree as the cpio archive that Linux unpacks at boot. Does not compress: see [`super::gzip`].

use std::collections::BTreeMap;
use std::io::Write;

use super::WriteError;
use super::cpio::{Inode, Writer};
use crate::tree::{NodeId, Tree};

/// Writes `tree` in its own order, without the root itself: the guest has one already. Extended attributes are left out.
///
/// # Errors
/// Where a file cannot be read or does not fit, or `out` cannot be written.
pub fn write<W: Write>(tree: &Tree, out: W) -> Result<W, WriteError> {
    let mut writer = Writer::new(out);
    let hard_links = tree.hard_links();
    // Number and links that are still to come, of inodes with several.
    let mut open: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
    let mut next = 1_u32;
    for item in tree.iter() {
        let links = hard_links.get(&item.id).copied();
        let (number, left) = open.get(&item.id).copied().unwrap_or_else(|| {
            let number = next;
            next += 1;
            (number, links.unwrap_or(1))
        });
        if links.is_some() {
            open.insert(item.id, (number, left - 1));
        }
        let inode = Inode {
            number,
            links: if item.node.is_directory() {
                tree.subdirectories(item.path).saturating_add(2)
            } else {
                links.unwrap_or(1)
            },
            kind: &item.node.kind,
            carries_content: left == 1,
        };
        writer.entry(item.path, &item.node.attributes, &inode)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cpio::{Limits, ReadError, read_entries};
    use crate::tree::{Content, Device, Kind, Node, Origin};

    #[test]
    fn order_and_links_are_those_of_the_tree() {
        let mut tree = Tree::default();
        let file = |bytes: &[u8]| Node::file(0o644, Content::Bytes(bytes.to_vec()));
        for path in ["/b/c/d", "/b/a", "/b.x", "/a"] {
            tree.insert(&path.parse().unwrap(), file(b"x"), Origin::Base)
                .unwrap();
        }
        tree.set_own_times(5);
        let archive = write(&tree, Vec::new()).unwrap();
        let mut found = Vec::new();
        read_entries(&archive[..], &Limits::default(), |entry, _| {
            found.push((
                String::from_utf8(entry.path.clone()).unwrap(),
                entry.links,
                entry.inode,
                entry.mtime,
            ));
            Ok::<_, ReadError>(())
        })
        .unwrap();
        let expected = [
            ("a", 1),
            ("b", 3),
            ("b.x", 1),
            ("b/a", 1),
            ("b/c", 2),
            ("b/c/d", 1),
        ];
        let expected: Vec<_> = (1..)
            .zip(expected)
            .map(|(inode, (path, links))| (path.to_owned(), links, inode, 5))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_kind_is_written_and_the_last_link_carries_the_content() {
        let mut tree = Tree::default();
        let mut owned = Node::file(0o4755, Content::Bytes(b"xyz".to_vec()));
        owned.attributes.uid = 1000;
        owned.attributes.gid = 100;
        tree.replace(b"a", owned).unwrap();
        tree.hard_link(b"d/c", b"a").unwrap();
        tree.hard_link(b"b", b"a").unwrap();
        let device = Device { major: 1, minor: 3 };
        for (path, kind) in [
            ("dev/null", Kind::CharacterDevice(device)),
            ("dev/ram", Kind::BlockDevice(device)),
            ("dev/pipe", Kind::Fifo),
            ("dev/socket", Kind::Socket),
        ] {
            let attributes = crate::tree::Attributes::new(0o600);
            tree.replace(path.as_bytes(), Node { attributes, kind })
                .unwrap();
        }
        let archive = write(&tree, Vec::new()).unwrap();
        let mut found = Vec::new();
        read_entries(&archive[..], &Limits::default(), |entry, content| {
            let mut text = String::new();
            content
                .read_to_string(&mut text)
                .map_err(ReadError::Input)?;
            let path = String::from_utf8(entry.path.clone()).unwrap();
            let permissions = entry.permissions;
            found.push(format!(
                "{path} {permissions:o} {} {} {} {text}",
                entry.uid, entry.links, entry.inode
            ));
            Ok::<_, ReadError>(())
        })
        .unwrap();
        assert_eq!(
            found,
            [
                "a 4755 1000 3 1 ",
                "b 4755 1000 3 1 ",
                "d 755 0 2 2 ",
                "d/c 4755 1000 3 1 xyz",
                "dev 755 0 2 3 ",
                "dev/null 600 0 1 4 ",
                "dev/pipe 600 0 1 5 ",
                "dev/ram 600 0 1 6 ",
                "dev/socket 600 0 1 7 ",
            ]
        );
    }
}
