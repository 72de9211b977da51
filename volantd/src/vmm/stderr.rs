//! What a VMM wrote on its standard error, cut down to what a person can use. Reads no process.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use fs_err as fs;

/// How much of the end of a log is looked at, in bytes: a whole error chain of Cloud Hypervisor has less than 1 KiB.
const TAIL_BYTES: u64 = 8 * 1024;
/// How many lines of it are kept.
const TAIL_LINES: usize = 20;
/// The longest cause put into a sentence, in characters.
const CAUSE_CHARS: usize = 400;

/// The last lines of a log file; empty if there is none.
pub(super) fn tail(path: &Path) -> String {
    read_tail(path).map_or_else(|_| String::new(), |bytes| last_lines(&bytes))
}

fn read_tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The one line that says why a VMM ended: Cloud Hypervisor's numbered causes joined, else the last line.
pub(super) fn cause(tail: &str) -> Option<String> {
    let chain: Vec<&str> = tail
        .lines()
        .filter_map(|line| {
            let (number, cause) = line.strip_prefix("  ")?.split_once(": ")?;
            number.parse::<u32>().ok().map(|_| cause)
        })
        .collect();
    let cause = if chain.is_empty() {
        tail.lines().last()?.trim().to_owned()
    } else {
        chain.join(": ")
    };
    Some(cause.chars().take(CAUSE_CHARS).collect())
}

/// Whether a vCPU of Cloud Hypervisor gave up. The VMM then ends with exit code 0, as if the guest had powered off.
pub(super) fn has_vcpu_failure(tail: &str) -> bool {
    tail.lines()
        .any(|line| line.contains("<vcpu") && line.contains(" ERROR:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: &str = "cloud-hypervisor:   0.047s: <main> ERROR:cloud-hypervisor/src/lib.rs:24 -- Fatal error\n\
                         Error: Cloud Hypervisor exited with the following chain of errors:\n  0: VMM thread exited with error\n  \
                         1: Error rebooting VM\n  2: Cannot open kernel file\n";

    #[test]
    fn a_chain_becomes_one_line() {
        let expected = "VMM thread exited with error: Error rebooting VM: Cannot open kernel file";
        assert_eq!(
            cause(&last_lines(CHAIN.as_bytes())).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn else_the_last_line_counts() {
        let text = "warning: x\nqemu-system-x86_64: -kernel /x: could not open kernel file\n\n";
        let expected = "qemu-system-x86_64: -kernel /x: could not open kernel file";
        assert_eq!(
            cause(&last_lines(text.as_bytes())).as_deref(),
            Some(expected)
        );
        assert_eq!(cause(""), None);
    }

    #[test]
    fn a_tail_is_short_and_has_no_control_characters() {
        let lines: Vec<String> = (0..100).map(|n| format!("line {n}\x1b[31m")).collect();
        let tail = last_lines(lines.join("\n").as_bytes());
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 99[31m"));
        assert!(cause(&"x".repeat(10_000)).unwrap().len() == CAUSE_CHARS);
    }

    #[test]
    fn a_failed_vcpu_is_seen() {
        assert!(has_vcpu_failure(
            "cloud-hypervisor: 0.1s: <vcpu0> ERROR:vmm/src/cpu.rs:1460 -- VCPU generated error"
        ));
        assert!(!has_vcpu_failure(
            "cloud-hypervisor: 0.1s: <vcpu0> WARN:vmm/src/cpu.rs:268 -- no SMT isolation"
        ));
    }

    #[test]
    fn a_missing_log_is_empty() {
        assert_eq!(tail(Path::new("/nonexistent/vmm.log")), "");
    }
}
