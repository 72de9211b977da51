//! Places in a log that outlive the daemon: by the file itself, which keeps its inode number and its birth when it becomes `.1`.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;
use std::time::SystemTime;

use fs_err as fs;

use super::{Opened, Position, RingFile, RingReader};

/// A place in a log, for a reader that comes back: `<inode>-<birth>-<offset>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    file: FileId,
    offset: u64,
}

/// One file among all that this log had. The number alone is not enough: a file system gives that of a removed file to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    inode: u64,
    /// When it was made, in nanoseconds of Unix time; 0 where the file system does not say.
    born_ns: u64,
}

impl FileId {
    fn of(file: &fs::File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let born = metadata.created().ok();
        let born = born.and_then(|born| born.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(Self {
            inode: metadata.ino(),
            born_ns: born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset } = self;
        write!(f, "{}-{}-{offset}", file.inode, file.born_ns)
    }
}

/// It is not `<inode>-<birth>-<offset>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("It is no place in this log")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let mut numbers = text.split('-').map(str::parse);
        let mut number = || numbers.next().and_then(Result::ok).ok_or(NoPlace);
        let (inode, born_ns, offset) = (number()?, number()?, number()?);
        if numbers.next().is_some() {
            return Err(NoPlace);
        }
        let file = FileId { inode, born_ns };
        Ok(Self { file, offset })
    }
}

impl RingFile {
    /// Where a place is now; none if it is overwritten.
    pub(crate) fn find(&self, place: Place) -> io::Result<Option<Position>> {
        for (generation, file, length) in self.files()? {
            if FileId::of(&file)? == place.file && place.offset <= length {
                return Ok(Some(Position {
                    generation,
                    offset: place.offset,
                }));
            }
        }
        Ok(None)
    }
}

impl RingReader {
    /// Where it has read to; none as long as there is no file.
    pub(crate) fn place(&mut self) -> io::Result<Option<Place>> {
        if self.file.is_none()
            && let Opened::File(file) = self.ring.open(self.at.generation)?
        {
            self.file = Some(file);
        }
        let Some(file) = &self.file else {
            return Ok(None);
        };
        Ok(Some(Place {
            file: FileId::of(file)?,
            offset: self.at.offset,
        }))
    }
}
