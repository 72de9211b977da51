//! A file tree as the cpio archive that Linux unpacks at boot. Does not compress: see [`super::gzip`].

use std::io::Write;

use super::cpio::{WriteError, Writer};
use crate::tree::{Content, Node, Tree};

/// Writes `tree` in its own order. `mtime` is the time of all files, in seconds since 1970.
///
/// # Errors
/// Where a file cannot be read or does not fit, or `out` cannot be written.
pub fn write<W: Write>(tree: &Tree, mtime: u32, out: W) -> Result<W, WriteError> {
    let mut writer = Writer::new(out, mtime);
    for (path, node) in tree.iter() {
        match node {
            Node::Directory { permissions } => {
                writer.directory(path, *permissions, tree.subdirectories(path))?;
            }
            Node::Symlink { target } => writer.symlink(path, target)?,
            Node::File {
                permissions,
                content: Content::Bytes(bytes),
            } => {
                writer.bytes(path, *permissions, bytes)?;
            }
            Node::File {
                permissions,
                content:
                    Content::Host {
                        path: host,
                        size_bytes,
                    },
            } => {
                let mut file = fs_err::File::open(host).map_err(|source| WriteError::Content {
                    path: format!("/{}", String::from_utf8_lossy(path).escape_debug()),
                    source,
                })?;
                writer.file(path, *permissions, *size_bytes, &mut file)?;
            }
        }
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cpio::{Limits, ReadError, read_entries};
    use crate::tree::Layer;

    #[test]
    fn order_and_links_are_those_of_the_tree() {
        let mut tree = Tree::default();
        let file = |bytes: &[u8]| Node::File {
            permissions: 0o644,
            content: Content::Bytes(bytes.to_vec()),
        };
        for path in ["/b/c/d", "/b/a", "/b.x", "/a"] {
            tree.insert(&path.parse().unwrap(), file(b"x"), Layer::Base)
                .unwrap();
        }
        let archive = write(&tree, 5, Vec::new()).unwrap();
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
}
