//! Lines of a body of any length, each of bounded length. Knows nothing of what is in them.

use std::collections::VecDeque;

/// The longest line that is kept: an event with its VM, or a log line, has some kilobytes. What is beyond is cut off.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Takes bytes as they come and gives lines without their ends (LF, CR or CR LF).
#[derive(Debug, Default)]
pub struct LineReader {
    partial: Vec<u8>,
    complete: VecDeque<String>,
    after_return: bool,
}

impl LineReader {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let was_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if was_return => {}
                b'\n' => self.end(),
                b'\r' => {
                    self.after_return = true;
                    self.end();
                }
                _ if self.partial.len() < MAX_LINE_BYTES => self.partial.push(*byte),
                _ => {}
            }
        }
    }

    /// The next complete line.
    pub fn next_line(&mut self) -> Option<String> {
        self.complete.pop_front()
    }

    /// What came after the last line's end, if anything.
    pub fn rest(&mut self) -> Option<String> {
        if !self.partial.is_empty() {
            self.end();
        }
        self.next_line()
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.partial);
        self.complete
            .push_back(String::from_utf8_lossy(&line).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = LineReader::default();
        let mut all = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(line) = reader.next_line() {
                all.push(line);
            }
        }
        all.extend(reader.rest());
        all
    }

    #[test]
    fn every_kind_of_end_is_one() {
        assert_eq!(lines(&[b"a\nb\r", b"\nc\rd"]), ["a", "b", "c", "d"]);
        assert_eq!(lines(&[b"\n\n"]), ["", ""]);
        assert_eq!(lines(&[b"\xc3", b"\xa9\n"]), ["é"]);
    }

    #[test]
    fn a_line_without_an_end_is_cut_off() {
        let long = vec![b'x'; MAX_LINE_BYTES + 10];
        let all = lines(&[&long, b"yz\nnext\n"]);
        assert_eq!((all[0].len(), all[1].as_str()), (MAX_LINE_BYTES, "next"));
    }
}
