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

/// The permissions of a file that has `host_mode` on the host and lies at `path` in the guest.
///
/// The rules are those of the Go system, with one addition: a program in a directory of programs is at least 0755. Otherwise a
/// checkout under another umask (0700 instead of 0755) would make another image.
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
    let in_program_directory = is_in(&PROGRAM_DIRECTORIES);
    if host_mode & 0o111 != 0 {
        let read_and_write = host_mode & 0o666;
        let execute = (read_and_write & 0o444) >> 2;
        let permissions = read_and_write | execute;
        return if in_program_directory {
            permissions | 0o755
        } else {
            permissions
        };
    }
    if in_program_directory || (is_in(&LIBRARY_DIRECTORIES) && is_shared_library(path)) {
        return 0o755;
    }
    0o644
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
    fn the_reference_vectors_hold() {
        let table = [
            (0o644, "/usr/bin/x", 0o755),
            (0o644, "/etc/x", 0o644),
            (0o700, "/etc/x", 0o700),
            (0o744, "/etc/x", 0o755),
            (0o744, "/usr/bin/x", 0o755),
            (0o744, "/x", 0o755),
            (0o644, "/usr/lib/libx.so.1", 0o755),
            (0o644, "/usr/lib/data", 0o644),
            (0o775, "/etc/x", 0o775),
            (0o775, "/usr/bin/x", 0o775),
        ];
        for (mode, path, expected) in table {
            let found = file_permissions(mode, &path.parse().unwrap());
            assert_eq!(found, expected, "{mode:o} at {path} became {found:o}");
        }
    }

    #[test]
    fn the_umask_of_a_checkout_does_not_matter() {
        for umask in [0o022, 0o027, 0o077] {
            assert_eq!(
                permissions(0o777 & !umask, b"/usr/bin/x"),
                0o755,
                "{umask:o}"
            );
            assert_eq!(
                permissions(0o666 & !umask, b"/usr/bin/x"),
                0o755,
                "{umask:o}"
            );
            assert_eq!(permissions(0o666 & !umask, b"/etc/x"), 0o644, "{umask:o}");
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
