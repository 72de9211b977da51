//! The bytes of an image, and contents that lie in several pieces of it. What names a place behind the end is refused before anything
//! is read or kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::walk::{Budget, Flaw, damaged};
use crate::tree::{Assembled, Content};

/// The largest directory or link that is read, in bytes: a million names of the usual length have a quarter of it.
pub(super) const MAX_DATA_BYTES: u64 = 128 << 20;

/// The file that an image is.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: Arc<File>,
    pub(super) size_bytes: u64,
}

impl Source {
    pub(super) fn new(file: File, size_bytes: u64) -> Self {
        Self {
            file: Arc::new(file),
            size_bytes,
        }
    }

    /// Fills `buffer` from `at` on.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), Flaw> {
        self.check(at, u64::try_from(buffer.len()).unwrap_or(u64::MAX))?;
        self.file.read_exact_at(buffer, at).map_err(Flaw::Read)
    }

    /// Whether `bytes` from `at` on are there.
    pub(super) fn check(&self, at: u64, bytes: u64) -> Result<(), Flaw> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(Flaw::Beyond),
        }
    }
}

/// Some bytes of a content that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where they are in the content.
    pub(super) logical: u64,
    /// Where they are in the image.
    pub(super) at: u64,
    /// How many.
    pub(super) bytes: u64,
}

/// Content in pieces, and zeros between them.
#[derive(Debug)]
pub(super) struct Pieces {
    source: Source,
    /// In the order of the content; none over another.
    list: Vec<Piece>,
    size_bytes: u64,
}

impl Pieces {
    /// What there is of `pieces`, which must be in order, in a content of `size_bytes`.
    pub(super) fn new(
        source: &Source,
        mut pieces: Vec<Piece>,
        size_bytes: u64,
    ) -> Result<Self, Flaw> {
        // Blocks may be reserved behind the end.
        pieces.retain(|piece| piece.logical < size_bytes);
        if let Some(last) = pieces.last_mut() {
            last.bytes = last.bytes.min(size_bytes - last.logical);
        }
        for piece in &pieces {
            source.check(piece.at, piece.bytes)?;
        }
        Ok(Self {
            source: source.clone(),
            list: pieces,
            size_bytes,
        })
    }

    /// As the content of a file.
    pub(super) fn into_content(self) -> Content {
        match self.list[..] {
            [] if self.size_bytes == 0 => Content::Bytes(Vec::new()),
            [one] if one.bytes == self.size_bytes => Content::Part {
                file: self.source.file,
                offset: one.at,
                size_bytes: self.size_bytes,
            },
            _ => Content::Assembled(Arc::new(self)),
        }
    }

    /// All of it, for directories and links.
    pub(super) fn to_bytes(&self, budget: &mut Budget) -> Result<Vec<u8>, Flaw> {
        if self.size_bytes > MAX_DATA_BYTES.min(self.source.size_bytes) {
            return Err(damaged("is larger than a directory or link can be"));
        }
        budget.read(self.size_bytes)?;
        let mut bytes = vec![0; usize::try_from(self.size_bytes).unwrap_or(0)];
        for piece in &self.list {
            let start = usize::try_from(piece.logical).unwrap_or(usize::MAX);
            let length = usize::try_from(piece.bytes).unwrap_or(usize::MAX);
            let part = bytes
                .get_mut(start..start.saturating_add(length))
                .ok_or(Flaw::Beyond)?;
            self.source.read(part, piece.at)?;
        }
        Ok(bytes)
    }
}

impl Assembled for Pieces {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let bounded =
            |bytes: u64| usize::try_from(bytes).map_or(buffer.len(), |n| n.min(buffer.len()));
        let next = self
            .list
            .partition_point(|piece| piece.logical + piece.bytes <= at);
        match self.list.get(next) {
            Some(piece) if piece.logical <= at => {
                let within = at - piece.logical;
                let count = bounded(piece.bytes - within);
                self.source
                    .file
                    .read_at(&mut buffer[..count], piece.at + within)
            }
            following => {
                let end = following.map_or(self.size_bytes, |piece| piece.logical);
                let count = bounded(end.saturating_sub(at));
                buffer[..count].fill(0);
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

    use super::*;

    fn source() -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        Source::new(file, 10)
    }

    fn piece(logical: u64, at: u64, bytes: u64) -> Piece {
        Piece { logical, at, bytes }
    }

    #[test]
    fn pieces_and_holes_are_one_content() {
        let table: [(&[Piece], u64, &[u8]); 6] = [
            (&[], 0, b""),
            (&[], 3, b"\0\0\0"),
            (&[piece(0, 2, 4)], 4, b"2345"),
            (&[piece(0, 2, 8)], 4, b"2345"),
            (
                &[piece(1, 8, 2), piece(3, 0, 2)],
                6,
                &[0, b'8', b'9', b'0', b'1', 0],
            ),
            (&[piece(2, 5, 2), piece(9, 0, 2)], 5, &[0, 0, b'5', b'6', 0]),
        ];
        for (pieces, size_bytes, expected) in table {
            let pieces = Pieces::new(&source(), pieces.to_vec(), size_bytes).unwrap();
            let bytes = pieces.to_bytes(&mut Budget::default()).unwrap();
            let content = pieces.into_content();
            assert_eq!(content.size_bytes(), size_bytes);
            let mut copy = Vec::new();
            content.copy_to(&mut copy).unwrap();
            assert_eq!(copy, bytes);
            assert_eq!(copy, expected);
        }
    }

    #[test]
    fn a_content_is_read_from_anywhere() {
        let pieces = vec![piece(1, 8, 2), piece(3, 0, 2)];
        let content = Pieces::new(&source(), pieces, 6).unwrap().into_content();
        let mut reader = content.open().unwrap();
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, [0, b'8', b'9', b'0', b'1', 0]);
        for at in 0..8 {
            reader.seek(SeekFrom::Start(at)).unwrap();
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
            assert_eq!(
                rest,
                all.get(usize::try_from(at).unwrap()..).unwrap_or_default()
            );
        }
    }

    #[test]
    fn what_lies_behind_the_end_is_refused() {
        for (at, bytes) in [(0, 11), (10, 1), (u64::MAX, 2)] {
            let pieces = vec![piece(0, at, bytes)];
            let refused = Pieces::new(&source(), pieces, u64::MAX).unwrap_err();
            assert!(matches!(refused, Flaw::Beyond));
        }
        let large = Pieces::new(&source(), Vec::new(), 11).unwrap();
        assert!(large.to_bytes(&mut Budget::default()).is_err());
    }
}
