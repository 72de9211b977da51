//! Bytes of one stream as lines, each bounded. Pure: it reads nothing and keeps only the line that is not complete yet.

use common::agent::log::MAX_LINE_BYTES;

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its text without the line break. What is not UTF-8 is U+FFFD.
    pub(super) text: String,
    /// Whether the line goes on.
    pub(super) partial: bool,
}

/// The beginning of the line that comes next.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes as they come, and gives each line that they complete to `each`.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line)) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES.saturating_sub(self.begun.len());
            let (now, _) = bytes.split_at(bytes.len().min(room));
            if let Some(at) = now.iter().position(|byte| *byte == b'\n') {
                let (line, rest) = bytes.split_at(at);
                self.begun.extend_from_slice(line);
                bytes = rest.get(1..).unwrap_or_default();
                each(self.complete());
                continue;
            }
            self.begun.extend_from_slice(now);
            bytes = bytes.get(now.len()..).unwrap_or_default();
            if self.begun.len() >= MAX_LINE_BYTES {
                each(self.piece());
            }
        }
    }

    /// The line that will get no end, if one has begun.
    pub(super) fn end(&mut self) -> Option<Line> {
        (!self.begun.is_empty()).then(|| self.complete())
    }

    fn complete(&mut self) -> Line {
        let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        let text = String::from_utf8_lossy(line).into_owned();
        self.begun.clear();
        Line {
            text,
            partial: false,
        }
    }

    /// All of it but a character at its end that is not complete.
    fn piece(&mut self) -> Line {
        let cut = self.begun.len() - unfinished(&self.begun);
        let rest = self.begun.split_off(cut);
        let whole = std::mem::replace(&mut self.begun, rest);
        Line {
            text: String::from_utf8_lossy(&whole).into_owned(),
            partial: true,
        }
    }
}

/// How many bytes at the end are the beginning of a character that is not complete.
fn unfinished(bytes: &[u8]) -> usize {
    let begins_a_character = |tail: &[u8]| {
        std::str::from_utf8(tail)
            .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=3)
        .rev()
        .find(|length| {
            let tail = bytes.len().checked_sub(*length);
            tail.and_then(|at| bytes.get(at..))
                .is_some_and(begins_a_character)
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.take(piece, |line| found.push(line));
        }
        found.extend(lines.end());
        found
            .into_iter()
            .map(|line| (line.text, line.partial))
            .collect()
    }

    fn whole(texts: &[&str]) -> Vec<(String, bool)> {
        texts
            .iter()
            .map(|text| ((*text).to_owned(), false))
            .collect()
    }

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let table: [(&[&[u8]], &[&str]); 7] = [
            (&[b"one\ntwo\n"], &["one", "two"]),
            (&[b"o", b"ne", b"\n", b"\ntwo"], &["one", "", "two"]),
            (&[b"dos\r\nbare\rend\n"], &["dos", "bare\rend"]),
            (&[b"caf\xc3", b"\xa9\n"], &["café"]),
            (&[b"\xff\xfe!\n"], &["\u{fffd}\u{fffd}!"]),
            (&[b"nul\0\x1b[0m\n"], &["nul\0\u{1b}[0m"]),
            (&[b""], &[]),
        ];
        for (pieces, expected) in table {
            assert_eq!(lines(pieces), whole(expected), "{pieces:?}");
        }
    }

    #[test]
    fn a_long_line_comes_in_pieces_that_cut_no_character() {
        let text = format!("{}é{}", "x".repeat(MAX_LINE_BYTES - 1), "y".repeat(10));
        let found = lines(&[text.as_bytes(), b"\nnext\n"]);
        let lengths: Vec<(usize, bool)> = found
            .iter()
            .map(|(text, partial)| (text.len(), *partial))
            .collect();
        assert_eq!(
            lengths,
            [(MAX_LINE_BYTES - 1, true), (12, false), (4, false)]
        );
        assert!(found[1].0.starts_with('é'));
        // A line of exactly the most bytes has an end that is not missing.
        let found = lines(&["x".repeat(MAX_LINE_BYTES).as_bytes(), b"\n"]);
        assert!(found[0].1);
        assert_eq!(found[1], (String::new(), false));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(pieces in proptest::collection::vec(proptest::collection::vec(0_u8..128, 0..40_000), 0..4)) {
            let all = pieces.concat();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let mut joined = String::new();
            for (text, partial) in lines(&pieces) {
                prop_assert!(text.len() <= MAX_LINE_BYTES);
                joined.push_str(&text);
                if !partial {
                    joined.push('\n');
                }
            }
            let text = String::from_utf8(all).unwrap();
            let text = text.strip_suffix('\n').unwrap_or(&text).replace("\r\n", "\n");
            prop_assert_eq!(joined.strip_suffix('\n').unwrap_or(&joined).replace('\r', ""), text.replace('\r', ""));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..70_000)) {
            for (text, _) in lines(&[&bytes]) {
                prop_assert!(text.len() <= 3 * MAX_LINE_BYTES);
            }
        }
    }
}
