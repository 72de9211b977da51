//! Who a process is: its start time, its host's boot, and the marks that the daemon put into its environment.
//!
//! Reads /proc only; signals nothing.

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fs_err as fs;
use nix::libc;

/// Environment variable of a VMM: the launch that it belongs to.
pub const INSTANCE_MARK: &str = "VOLANT_INSTANCE";
/// Environment variable of a VMM: the state folder of the daemon that started it.
pub const STATE_MARK: &str = "VOLANT_STATE";

/// What /proc/pid/stat says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Field 3: `R`, `S`, … `Z` for one that has ended and was not waited for.
    pub(super) state: char,
    /// Field 22: clock ticks from the host's boot to the start of the process.
    pub(super) start_ticks: u64,
}

impl Stat {
    /// Whether the process can still run.
    pub(super) fn lives(self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads a line of /proc/pid/stat. The name in field 2 may hold blanks and `)`, so fields count from the last `)`.
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 3 is taken, 4 to 21 are passed over.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

/// The process's stat, `None` if there is no such process.
pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(line) => parse_stat(&line).map(Some).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "/proc/pid/stat has an unknown form",
            )
        }),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The id of the host's current boot.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Whether the living process `pid` was started with `key=value` in its environment.
pub(super) fn is_marked(pid: u32, key: &str, value: &OsStr) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| variable(&environ, key).is_some_and(|found| found == value.as_bytes()))
}

/// Every process whose environment has `key`, with its value.
pub(super) fn marked(key: &str) -> io::Result<Vec<(u32, Vec<u8>)>> {
    let own = nix::unistd::geteuid();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let process = PathBuf::from("/proc").join(name);
        // Anybody can put our mark into an environment: only processes of our own user count.
        if !fs::metadata(&process).is_ok_and(|metadata| metadata.uid() == own.as_raw()) {
            continue;
        }
        // A process that ends meanwhile is not one of ours any more.
        let Ok(environ) = fs::read(process.join("environ")) else {
            continue;
        };
        if let Some(value) = variable(&environ, key) {
            found.push((pid, value.to_owned()));
        }
    }
    Ok(found)
}

/// The descriptor by which a process holds the main end of the pty `/dev/pts/<index>`.
pub(super) fn pty_main(pid: u32, index: u32) -> io::Result<RawFd> {
    let wanted = format!("tty-index:\t{index}");
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let entry = entry?;
        let holds = fs::read_to_string(entry.path())
            .is_ok_and(|info| info.lines().any(|line| line == wanted));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (holds, number) {
            return Ok(number);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn variable<'a>(environ: &'a [u8], key: &str) -> Option<&'a [u8]> {
    environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
}

/// Whether an error of /proc means that the process is not there (any more).
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["qemu", "a b", "a) S 1 (b", ")", ""] {
            let stat = parse_stat(&format!("77 ({name}) {tail}\n")).unwrap();
            assert_eq!((stat.state, stat.start_ticks), ('S', 4242), "{name}");
        }
        for bad in [
            "",
            "77",
            "77 (x)",
            "77 (x) S 1 2",
            "77 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x",
        ] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_running_process_lives() {
        for (state, lives) in [
            ('R', true),
            ('S', true),
            ('D', true),
            ('Z', false),
            ('X', false),
        ] {
            assert_eq!(
                Stat {
                    state,
                    start_ticks: 0
                }
                .lives(),
                lives
            );
        }
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environ = b"XVOLANT_INSTANCE=a\0VOLANT_INSTANCE_OLD=b\0VOLANT_INSTANCE=c=d\0";
        assert_eq!(variable(environ, INSTANCE_MARK), Some(b"c=d".as_slice()));
        assert_eq!(variable(environ, STATE_MARK), None);
    }

    #[test]
    fn this_process_is_read() {
        let me = stat(std::process::id()).unwrap().unwrap();
        assert!(me.lives() && me.start_ticks > 0);
        assert_eq!(stat(u32::MAX).unwrap(), None);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
