//! Which permissions a mapped file gets in the guest. Pure.

use common::build_spec::GuestPath;

/// Directories whose files are programs.
const PROGRAM_DIRECTORIES: [&str; 8] = [
    "/bin/",
    "/sbin/",
    "/usr/bin/",
    "/usr/sbin/",
    "/usr/local/bin/",
    "/usr/local/sbin/",
    "/opt/bin/",
    "/opt/sbin/",
];

/// Directories whose shared libraries are executable.
const LIBRARY_DIRECTORIES: [&str; 6] = [
    "/lib/",
    "/lib64/",
    "/usr/lib/",
    "/usr/lib64/",
    "/usr/local/lib/",
    "/usr/local/lib64/",
];

/// Permissions of programs and libraries, and of everything else.
const PROGRAM_PERMISSIONS: u32 = 0o755;
const DATA_PERMISSIONS: u32 = 0o644;

/// Owner, group or others may execute.
const ANY_EXECUTE: u32 = 0o111;

/// The permissions of a file that has `host_mode` on the host and lies at `path` in the guest: 0755 or 0644, and nothing else.
///
/// Of the mode on the host only one thing counts: whether anybody may execute the file. Who may read or write it there depends on the
/// umask of the checkout, and the same input must give the same image under every umask. Here the Go system differs: it keeps 0700
/// and 0775. A private mode can be given to downloads (`mode` of `[[fetch]]`) and comes along in container images; a mapped file
/// cannot have one.
pub fn file_permissions(host_mode: u32, path: &GuestPath) -> u32 {
    permissions(host_mode, path.as_str().as_bytes())
}

/// As [`file_permissions`], for an absolute path that need not be text.
pub(crate) fn permissions(host_mode: u32, path: &[u8]) -> u32 {
    let is_in = |directories: &[&str]| {
        directories
            .iter()
            .any(|directory| path.starts_with(directory.as_bytes()))
    };
    let is_library = || is_in(&LIBRARY_DIRECTORIES) && is_shared_library(path);
    if host_mode & ANY_EXECUTE != 0 || is_in(&PROGRAM_DIRECTORIES) || is_library() {
        PROGRAM_PERMISSIONS
    } else {
        DATA_PERMISSIONS
    }
}

/// `libx.so`, `libx.so.1`.
fn is_shared_library(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_vectors_hold_but_for_what_a_umask_changes() {
        let table = [
            (0o644, "/usr/bin/x", 0o755),
            (0o644, "/etc/x", 0o644),
            (0o744, "/etc/x", 0o755),
            (0o744, "/usr/bin/x", 0o755),
            (0o744, "/x", 0o755),
            (0o644, "/usr/lib/libx.so.1", 0o755),
            (0o644, "/usr/lib/data", 0o644),
            // The Go system has 0700 and 0775 here.
            (0o700, "/etc/x", 0o755),
            (0o775, "/etc/x", 0o755),
            (0o775, "/usr/bin/x", 0o755),
            (0o4755, "/srv/x", 0o755),
            (0o600, "/srv/x", 0o644),
        ];
        for (mode, path, expected) in table {
            let found = file_permissions(mode, &path.parse().unwrap());
            assert_eq!(found, expected, "{mode:o} at {path} became {found:o}");
        }
    }

    #[test]
    fn the_umask_of_a_checkout_does_not_matter() {
        for umask in [0o002, 0o022, 0o027, 0o077] {
            for (mode, path, expected) in [
                (0o777, "/usr/bin/x", 0o755),
                (0o666, "/usr/bin/x", 0o755),
                (0o777, "/srv/x", 0o755),
                (0o666, "/srv/x", 0o644),
                (0o777, "/usr/lib/libx.so.1", 0o755),
                (0o666, "/usr/lib/libx.so.1", 0o755),
            ] {
                let found = permissions(mode & !umask, path.as_bytes());
                assert_eq!(found, expected, "{mode:o} at {path} under {umask:o}");
            }
        }
    }

    #[test]
    fn only_libraries_in_library_directories_are_executable() {
        let table = [
            ("/lib/libc.so", 0o755),
            ("/usr/lib/x86_64/libc.so.6.1", 0o755),
            ("/usr/lib/libc.sox", 0o644),
            ("/srv/libc.so.6", 0o644),
            ("/usr/lib/x.so.d/data", 0o644),
            ("/binary", 0o644),
            ("/usr/binx/y", 0o644),
        ];
        for (path, expected) in table {
            assert_eq!(permissions(0o644, path.as_bytes()), expected, "{path}");
        }
    }
}
