//! One console's log file, bounded: when it is full it becomes `.1` and a new one begins. Knows nothing of watchers.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err::tokio as fs;
use tokio::io::AsyncWriteExt;

/// The log's name in a VM's state directory; the one before it ends in `.1`.
pub const CONSOLE_LOG: &str = "console.log";

/// The most that one file of a log has, in bytes. Two are kept, so a guest can fill 8 MiB of the host's disk, no more.
pub const MAX_LOG_BYTES: u64 = 4 * 1024 * 1024;

/// A bounded log file, opened at the first byte.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    path: PathBuf,
    open: Option<(fs::File, u64)>,
}

impl ConsoleLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds bytes at the end. After an error the next call opens the file anew.
    pub(super) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut file, mut length) = match self.open.take() {
            Some(open) => open,
            None => open(&self.path).await?,
        };
        if length >= MAX_LOG_BYTES {
            fs::rename(&self.path, previous(&self.path)).await?;
            (file, length) = open(&self.path).await?;
        }
        file.write_all(bytes).await?;
        file.flush().await?;
        let added = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.open = Some((file, length.saturating_add(added)));
        Ok(())
    }
}

async fn open(path: &Path) -> io::Result<(fs::File, u64)> {
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .await?;
    let length = file.metadata().await?.len();
    Ok((file, length))
}

fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// The last `lines` lines of a log and the one before it; all that is kept for `usize::MAX`. A log that is not there is empty.
pub(super) fn tail(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut bytes = read_end(&previous(path))?;
    bytes.extend(read_end(path)?);
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut breaks = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1);
    let start = match lines {
        0 => bytes.len(),
        _ => breaks.nth(lines - 1).unwrap_or(0),
    };
    bytes.drain(..start);
    Ok(bytes)
}

fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    // One chunk may be written after the limit is reached.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(2 * MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tails_end_with_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        assert_eq!(tail(&path, 3).unwrap(), b"");
        let mut log = ConsoleLog::new(path.clone());
        log.append(b"a\nb\n").await.unwrap();
        log.append(b"c").await.unwrap();
        let table: [(usize, &[u8]); 5] = [
            (0, b""),
            (1, b"c"),
            (2, b"b\nc"),
            (3, b"a\nb\nc"),
            (usize::MAX, b"a\nb\nc"),
        ];
        for (lines, expected) in table {
            assert_eq!(tail(&path, lines).unwrap(), expected, "{lines}");
        }
        log.append(b"\n").await.unwrap();
        assert_eq!(tail(&path, 1).unwrap(), b"c\n");
    }

    #[tokio::test]
    async fn a_full_log_is_rotated_and_both_parts_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSOLE_LOG);
        let mut log = ConsoleLog::new(path.clone());
        let line = vec![b'x'; 65_535]
            .into_iter()
            .chain([b'\n'])
            .collect::<Vec<u8>>();
        for _ in 0..200 {
            log.append(&line).await.unwrap();
        }
        let kept: u64 = fs_err::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(kept <= 2 * MAX_LOG_BYTES + 65_536, "{kept}");
        assert!(tail(&path, usize::MAX).unwrap().len() > 4_000_000);
        assert_eq!(
            tail(&path, 70).unwrap().len(),
            70 * 65_536,
            "lines are taken over the break"
        );
    }
}
