//! Puts files and directories of the host into a tree. Reads metadata and links; contents are read when the image is written.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::build_spec::{GuestPath, MAX_GUEST_PATH_BYTES};

use super::{Content, DIRECTORY_PERMISSIONS, Node, Origin, Tree, TreeError, modes};

/// Directories nested deeper than this are not entered; paths would be too long long before.
const MAX_DEPTH: usize = 256;

/// Something of the host that cannot be put into the tree.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It does not exist.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path on the host.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error("Cannot read `{}`", path.display())]
    Read {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is neither file, directory nor link.
    #[error("`{}` is {what}: only files, directories and symbolic links can be mapped", path.display())]
    Special {
        /// The path on the host.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The path in the guest gets too long, or the directories are nested too deeply.
    #[error("`{}` is nested too deeply for an image", path.display())]
    TooDeep {
        /// The path on the host.
        path: PathBuf,
    },
    /// It cannot lie where it should.
    #[error("Cannot map `{}`", path.display())]
    Place {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: TreeError,
    },
}

/// What was found at a mapping's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// What lies at `path` of the host; a link is followed, because the user named it.
pub fn look(path: &Path) -> Result<Found, HostError> {
    let metadata = fs_err::metadata(path).map_err(|source| read_error(path, source))?;
    match metadata.file_type() {
        kind if kind.is_dir() => Ok(Found::Directory),
        kind if kind.is_file() => Ok(Found::File),
        kind => Err(special(path, kind)),
    }
}

/// Puts the file at `host` to `guest`. Without `permissions` it gets those of [`modes::file_permissions`].
pub fn add_file(
    tree: &mut Tree,
    host: &Path,
    guest: &GuestPath,
    permissions: Option<u32>,
    origin: Origin,
) -> Result<(), HostError> {
    let metadata = fs_err::metadata(host).map_err(|source| read_error(host, source))?;
    if metadata.is_dir() || !metadata.is_file() {
        return Err(special(host, metadata.file_type()));
    }
    let permissions =
        permissions.unwrap_or_else(|| modes::file_permissions(metadata.mode(), guest));
    let content = Content::Host {
        path: host.to_path_buf(),
        size_bytes: metadata.len(),
    };
    tree.insert(guest, Node::file(permissions, content), origin)
        .map_err(|source| HostError::Place {
            path: host.to_path_buf(),
            source,
        })
}

/// Puts what is in the directory `host` into the directory `guest`, links as links, in the order of names.
pub fn add_directory(tree: &mut Tree, host: &Path, guest: &GuestPath) -> Result<(), HostError> {
    add_contents(tree, host, guest.in_archive().as_bytes(), 0)
}

fn add_contents(tree: &mut Tree, host: &Path, guest: &[u8], depth: usize) -> Result<(), HostError> {
    if depth > MAX_DEPTH {
        return Err(HostError::TooDeep {
            path: host.to_path_buf(),
        });
    }
    insert(tree, host, guest, Node::directory(DIRECTORY_PERMISSIONS))?;
    let read = |source| read_error(host, source);
    let mut names = fs_err::read_dir(host)
        .map_err(read)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(read)?;
    names.sort_unstable();
    for name in names {
        let path = host.join(&name);
        let mut inner = guest.to_vec();
        if !inner.is_empty() {
            inner.push(b'/');
        }
        inner.extend_from_slice(name.as_bytes());
        if inner.len() >= MAX_GUEST_PATH_BYTES {
            return Err(HostError::TooDeep { path });
        }
        let metadata =
            fs_err::symlink_metadata(&path).map_err(|source| read_error(&path, source))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            add_contents(tree, &path, &inner, depth + 1)?;
        } else if kind.is_symlink() {
            let target = fs_err::read_link(&path).map_err(|source| read_error(&path, source))?;
            let target = target.into_os_string().as_bytes().to_vec();
            insert(tree, &path, &inner, Node::symlink(target))?;
        } else if kind.is_file() {
            let absolute = [b"/", inner.as_slice()].concat();
            let permissions = modes::permissions(metadata.mode(), &absolute);
            let content = Content::Host {
                path: path.clone(),
                size_bytes: metadata.len(),
            };
            insert(tree, &path, &inner, Node::file(permissions, content))?;
        } else {
            return Err(special(&path, kind));
        }
    }
    Ok(())
}

fn insert(tree: &mut Tree, host: &Path, guest: &[u8], node: Node) -> Result<(), HostError> {
    tree.insert_bytes(guest, node, Origin::Directory)
        .map_err(|source| HostError::Place {
            path: host.to_path_buf(),
            source,
        })
}

fn read_error(path: &Path, source: io::Error) -> HostError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => HostError::NotFound { path },
        _ => HostError::Read { path, source },
    }
}

fn special(path: &Path, kind: std::fs::FileType) -> HostError {
    let what = match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "of an unknown kind",
    };
    HostError::Special {
        path: path.to_path_buf(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::tree::Kind;

    #[test]
    fn a_directory_is_copied_with_links_and_modes() {
        let host = tempfile::tempdir().unwrap();
        let path = |name: &str| host.path().join(name);
        fs_err::create_dir(path("bin")).unwrap();
        fs_err::create_dir(path("empty")).unwrap();
        for (name, mode) in [("bin/tool", 0o600), ("data", 0o666), ("script", 0o700)] {
            fs_err::write(path(name), name).unwrap();
            fs_err::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        symlink("/nowhere", path("dangling")).unwrap();
        symlink("bin", path("to-directory")).unwrap();
        let mut tree = Tree::default();
        add_directory(&mut tree, host.path(), &"/usr".parse().unwrap()).unwrap();
        let found: Vec<String> = tree
            .iter()
            .map(|item| {
                let path = String::from_utf8_lossy(item.path);
                let permissions = item.node.attributes.permissions;
                match &item.node.kind {
                    Kind::Directory => format!("{path}/ {permissions:o}"),
                    Kind::Symlink(target) => {
                        format!("{path} -> {}", String::from_utf8_lossy(target))
                    }
                    _ => format!("{path} {permissions:o}"),
                }
            })
            .collect();
        assert_eq!(
            found,
            [
                "usr/ 755",
                "usr/bin/ 755",
                "usr/bin/tool 755",
                "usr/dangling -> /nowhere",
                "usr/data 644",
                "usr/empty/ 755",
                "usr/script 755",
                "usr/to-directory -> bin",
            ]
        );
    }

    #[test]
    fn what_cannot_be_mapped_is_named() {
        let host = tempfile::tempdir().unwrap();
        let socket = host.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let mut tree = Tree::default();
        let guest = "/x".parse().unwrap();
        for error in [
            add_directory(&mut tree, host.path(), &guest).unwrap_err(),
            add_file(&mut tree, &socket, &guest, None, Origin::File).unwrap_err(),
            look(&socket).map(|_| ()).unwrap_err(),
        ] {
            assert!(
                error.to_string().contains("is a socket: only files"),
                "{error}"
            );
        }
        let missing = look(&host.path().join("missing")).unwrap_err();
        assert!(
            missing.to_string().ends_with("missing` does not exist"),
            "{missing}"
        );
    }
}
