//! The file system of an image, in memory: directories, files and symbolic links, sorted by path. Contents of host files stay there
//! until they are written out.
//!
//! What lies where does not depend on the order of insertion, except between directories that bring the same file: see [`Layer`].

pub mod host;
pub mod modes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::build_spec::GuestPath;

/// Permissions of directories, whatever they are on the host: owners other than root do not exist in an image.
pub const DIRECTORY_PERMISSIONS: u32 = 0o755;

/// The most entries that an image has. A bound against mapping `/` by mistake.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Links followed before a path counts as a loop, as in Linux (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where a file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here.
    Bytes(Vec<u8>),
    /// In a file of the host.
    Host {
        /// Its path.
        path: PathBuf,
        /// Its size when it was looked at; it must not change.
        size_bytes: u64,
    },
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// The lower twelve bits of its mode.
        permissions: u32,
    },
    /// A regular file.
    File {
        /// The lower twelve bits of its mode.
        permissions: u32,
        /// Its content.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as it is.
        target: Vec<u8>,
    },
}

impl Node {
    fn what(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "a directory",
            Self::File { .. } => "a file",
            Self::Symlink { .. } => "a symbolic link",
        }
    }
}

/// Who put something into the tree, weakest first: the stronger one stays, whichever came first.
///
/// Between two directories the later one wins, so callers insert them in a fixed order. Two files mapped to one path are an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// What every image has.
    Base,
    /// The content of a mapped directory.
    Directory,
    /// A file that is mapped by itself.
    File,
    /// What the guest cannot boot without; nothing replaces it.
    Boot,
}

/// Something that cannot lie where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A path leads through something that is not a directory.
    #[error("`{path}` cannot be placed: `{parent}` is {what}, not a directory")]
    NotADirectory {
        /// The path.
        path: String,
        /// What is in its way.
        parent: String,
        /// What that is.
        what: &'static str,
    },
    /// A directory would become something else, or the reverse.
    #[error("`{path}` is both {present} and {new}")]
    Conflict {
        /// The path.
        path: String,
        /// What is there.
        present: &'static str,
        /// What should be.
        new: &'static str,
    },
    /// Two mappings name one path.
    #[error("Two mappings lead to `{path}`")]
    Twice {
        /// The path.
        path: String,
    },
    /// The agent would be replaced.
    #[error("`{path}` belongs to the agent and cannot be replaced by a mapping")]
    Protected {
        /// The path.
        path: String,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("The image would have more than {MAX_ENTRIES} files and directories")]
    TooMany,
}

#[derive(Debug, Clone)]
struct Entry {
    node: Node,
    layer: Layer,
}

/// A file system. Paths are bytes without a `/` in front, because file names need not be text.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Tree {
    /// Puts `node` at `path`, and makes the directories above it.
    pub fn insert(&mut self, path: &GuestPath, node: Node, layer: Layer) -> Result<(), TreeError> {
        self.insert_bytes(path.in_archive().as_bytes(), node, layer)
    }

    /// As [`Tree::insert`], for a path that need not be text; it must have no empty, `.` or `..` components.
    pub(crate) fn insert_bytes(
        &mut self,
        path: &[u8],
        node: Node,
        layer: Layer,
    ) -> Result<(), TreeError> {
        if path.is_empty() {
            return match node {
                Node::Directory { .. } => Ok(()),
                other => Err(TreeError::Conflict {
                    path: "/".to_owned(),
                    present: "a directory",
                    new: other.what(),
                }),
            };
        }
        self.make_parents(path)?;
        if self.entries.len() >= MAX_ENTRIES {
            return Err(TreeError::TooMany);
        }
        let Some(present) = self.entries.get_mut(path) else {
            self.entries.insert(path.to_vec(), Entry { node, layer });
            return Ok(());
        };
        match (&present.node, &node) {
            (Node::Directory { .. }, Node::Directory { .. }) => return Ok(()),
            (Node::Directory { .. }, _) | (_, Node::Directory { .. }) => {
                return Err(TreeError::Conflict {
                    path: shown(path),
                    present: present.node.what(),
                    new: node.what(),
                });
            }
            (Node::File { .. } | Node::Symlink { .. }, _) => {}
        }
        match (present.layer, layer) {
            (Layer::Boot, _) => Err(TreeError::Protected { path: shown(path) }),
            (Layer::File, Layer::File) => Err(TreeError::Twice { path: shown(path) }),
            (old, new) => {
                if new >= old {
                    *present = Entry { node, layer };
                }
                Ok(())
            }
        }
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<(), TreeError> {
        for (at, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            let parent = &path[..at];
            match self.entries.get(parent).map(|entry| &entry.node) {
                Some(Node::Directory { .. }) => {}
                Some(other) => {
                    return Err(TreeError::NotADirectory {
                        path: shown(path),
                        parent: shown(parent),
                        what: other.what(),
                    });
                }
                None => {
                    let node = Node::Directory {
                        permissions: DIRECTORY_PERMISSIONS,
                    };
                    self.entries.insert(
                        parent.to_vec(),
                        Entry {
                            node,
                            layer: Layer::Base,
                        },
                    );
                }
            }
        }
        Ok(())
    }

    /// All paths in the order of their bytes: a directory comes before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_slice(), &entry.node))
    }

    /// What lies at `path` itself, without following a link.
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        self.entries.get(path).map(|entry| &entry.node)
    }

    /// How many directories are directly in the directory at `path`.
    pub fn subdirectories(&self, path: &[u8]) -> u32 {
        let mut below = path.to_vec();
        below.push(b'/');
        let mut count = 0;
        for (child, entry) in self.entries.range(below.clone()..) {
            let Some(name) = child.strip_prefix(below.as_slice()) else {
                break;
            };
            if matches!(entry.node, Node::Directory { .. }) && !name.contains(&b'/') {
                count += 1;
            }
        }
        count
    }

    /// Follows links from the absolute `path` to what is not a link, and returns where that is.
    pub fn resolve(&self, path: &[u8]) -> Option<(Vec<u8>, &Node)> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut node = None;
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b".." {
                let parent = at.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                at.truncate(parent);
                node = self.get(&at);
                continue;
            }
            let parent_bytes = at.len();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&component);
            match self.get(&at)? {
                Node::Symlink { target } => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    at.truncate(if target.starts_with(b"/") {
                        0
                    } else {
                        parent_bytes
                    });
                    rest.extend(components(target).rev().map(<[u8]>::to_vec));
                    node = self.get(&at);
                }
                found => node = Some(found),
            }
        }
        node.map(|node| (at, node))
    }
}

/// The components of a path without those that mean nothing.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

/// A path as it is shown: with its `/`, escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> Node {
        Node::File {
            permissions: 0o644,
            content: Content::Bytes(content.as_bytes().to_vec()),
        }
    }

    fn link(target: &str) -> Node {
        Node::Symlink {
            target: target.as_bytes().to_vec(),
        }
    }

    fn directory() -> Node {
        Node::Directory {
            permissions: DIRECTORY_PERMISSIONS,
        }
    }

    fn put(tree: &mut Tree, path: &str, node: Node, layer: Layer) -> Result<(), TreeError> {
        tree.insert(&path.parse().unwrap(), node, layer)
    }

    #[test]
    fn the_stronger_layer_stays_in_either_order() {
        let layers = [Layer::Base, Layer::Directory, Layer::File];
        for weak in layers {
            for strong in layers.into_iter().filter(|layer| *layer > weak) {
                let mut tree = Tree::default();
                put(&mut tree, "/a/b", file("weak"), weak).unwrap();
                put(&mut tree, "/a/b", file("strong"), strong).unwrap();
                put(&mut tree, "/a/b", file("weak"), weak).unwrap();
                assert_eq!(tree.get(b"a/b"), Some(&file("strong")));
            }
        }
    }

    #[test]
    fn the_later_directory_wins_and_two_files_are_refused() {
        let mut tree = Tree::default();
        put(&mut tree, "/a", file("1"), Layer::Directory).unwrap();
        put(&mut tree, "/a", link("2"), Layer::Directory).unwrap();
        assert_eq!(tree.get(b"a"), Some(&link("2")));
        put(&mut tree, "/a", file("3"), Layer::File).unwrap();
        let error = put(&mut tree, "/a", file("4"), Layer::File).unwrap_err();
        assert_eq!(error.to_string(), "Two mappings lead to `/a`");
    }

    #[test]
    fn what_contradicts_is_refused() {
        let mut tree = Tree::default();
        put(&mut tree, "/init", link("bin/kestrel"), Layer::Boot).unwrap();
        put(&mut tree, "/dir/x", file(""), Layer::Base).unwrap();
        put(&mut tree, "/lib64", link("usr/lib"), Layer::Base).unwrap();
        let table = [
            ("/init", file(""), "`/init` belongs to the agent"),
            ("/dir", file(""), "`/dir` is both a directory and a file"),
            (
                "/dir/x",
                directory(),
                "`/dir/x` is both a file and a directory",
            ),
            ("/dir/x/y", file(""), "`/dir/x` is a file, not a directory"),
            (
                "/lib64/y",
                file(""),
                "`/lib64` is a symbolic link, not a directory",
            ),
            ("/", file(""), "`/` is both a directory and a file"),
        ];
        for (path, node, expected) in table {
            let message = put(&mut tree, path, node, Layer::File)
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let mut tree = Tree::default();
        put(&mut tree, "/usr/bin/real", file("x"), Layer::Base).unwrap();
        put(&mut tree, "/usr/bin/relative", link("real"), Layer::Base).unwrap();
        put(&mut tree, "/bin", link("usr/bin"), Layer::Base).unwrap();
        put(
            &mut tree,
            "/up",
            link("/bin/../../../bin/./relative"),
            Layer::Base,
        )
        .unwrap();
        put(&mut tree, "/loop", link("loop"), Layer::Base).unwrap();
        put(&mut tree, "/gone", link("/nowhere"), Layer::Base).unwrap();
        put(&mut tree, "/top", link("/"), Layer::Base).unwrap();
        for path in ["/usr/bin/real", "/usr/bin/relative", "/bin/relative", "/up"] {
            let (at, node) = tree
                .resolve(path.as_bytes())
                .unwrap_or_else(|| panic!("{path}"));
            assert_eq!(
                (at.as_slice(), node),
                (&b"usr/bin/real"[..], &file("x")),
                "{path}"
            );
        }
        for path in ["/loop", "/gone", "/usr/bin/none", "/top", "/"] {
            assert!(tree.resolve(path.as_bytes()).is_none(), "{path}");
        }
    }

    #[test]
    fn subdirectories_are_counted_directly_below() {
        let mut tree = Tree::default();
        for path in ["/a/b/c/x", "/a/b.d/x", "/a/e/x", "/a!/x/y", "/ab/x/y"] {
            put(&mut tree, path, file(""), Layer::Base).unwrap();
        }
        assert_eq!(tree.subdirectories(b"a"), 3);
        assert_eq!(tree.subdirectories(b"a/b"), 1);
        assert_eq!(tree.subdirectories(b"a/e"), 0);
    }
}
