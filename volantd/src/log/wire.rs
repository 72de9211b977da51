//! What an agent sends as log lines: bytes into lines, each bounded. A guest is not trusted: what is no line is left out. Pure.

use common::agent::log::{LogLine, MAX_LINE_BYTES};

/// The longest line of JSON that is looked at, in bytes: every byte of the text escaped as `\u0000`, and the members around it.
pub(super) const MAX_JSON_BYTES: usize = 6 * MAX_LINE_BYTES + 1024;

/// The longest text that is taken over, in bytes: each byte that is not UTF-8 is three of U+FFFD.
const MAX_TEXT_BYTES: usize = 3 * MAX_LINE_BYTES;

/// The line of JSON that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Wire {
    begun: Vec<u8>,
    /// The line is longer than it may be: the rest of it is left out.
    skipping: bool,
    /// Lines that were left out.
    pub(super) garbage: u64,
}

impl Wire {
    /// Takes bytes as they come, and adds the lines that they complete.
    pub(super) fn take(&mut self, bytes: &[u8], lines: &mut Vec<LogLine>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_complete) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.begun.len() + text.len() > MAX_JSON_BYTES {
                self.skipping = true;
                self.begun = Vec::new();
            }
            if !self.skipping {
                self.begun.extend_from_slice(text);
            }
            if is_complete {
                self.complete(lines);
            }
        }
    }

    fn complete(&mut self, lines: &mut Vec<LogLine>) {
        let skipped = std::mem::take(&mut self.skipping);
        match serde_json::from_slice::<LogLine>(&self.begun) {
            Ok(line) if !skipped => lines.push(bounded(line)),
            // An empty line may keep a connection open.
            _ if self.begun.is_empty() && !skipped => {}
            _ => self.garbage = self.garbage.saturating_add(1),
        }
        self.begun.clear();
    }
}

fn bounded(mut line: LogLine) -> LogLine {
    line.line
        .truncate(line.line.floor_char_boundary(MAX_TEXT_BYTES));
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn take(pieces: &[&[u8]]) -> (Vec<String>, u64) {
        let (mut wire, mut lines) = (Wire::default(), Vec::new());
        for piece in pieces {
            wire.take(piece, &mut lines);
            assert!(wire.begun.len() <= MAX_JSON_BYTES);
        }
        let texts = lines.into_iter().map(|line| line.line).collect();
        (texts, wire.garbage)
    }

    fn json(text: &str) -> Vec<u8> {
        let line = serde_json::json!({"seq": 1, "at_ms": 2, "stream": "stdout", "line": text});
        format!("{line}\n").into_bytes()
    }

    #[test]
    fn lines_are_found_however_they_are_cut_and_garbage_is_left_out() {
        let one = json("one");
        let (head, rest) = one.split_at(10);
        assert_eq!(take(&[head, rest]), (vec!["one".to_owned()], 0));
        let mixed = [&json("a")[..], b"\n\nnot json\n{}\n", &json("b")].concat();
        assert_eq!(take(&[&mixed]), (vec!["a".to_owned(), "b".to_owned()], 2));
        let endless = vec![b'x'; 100_000];
        let pieces: Vec<&[u8]> = std::iter::repeat_n(&endless[..], 20).collect();
        let (texts, garbage) = take(&[&pieces.concat(), b"\n", &json("after")]);
        assert_eq!((texts, garbage), (vec!["after".to_owned()], 1));
        // The longest line that an agent may send, as long as JSON can make it.
        let longest = json(&"\0".repeat(MAX_LINE_BYTES));
        assert_eq!(take(&[&longest]).0[0].len(), MAX_LINE_BYTES);
        let longer = json(&"é".repeat(MAX_LINE_BYTES * 2));
        assert_eq!(take(&[&longer]).0[0].len(), MAX_TEXT_BYTES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4000), cut in 0_usize..4000) {
            let cut = cut.min(bytes.len());
            let (texts, _) = take(&[&bytes[..cut], &bytes[cut..], b"\n", &json("after")]);
            prop_assert!(!texts.is_empty());
            prop_assert_eq!(texts.last().map(String::as_str), Some("after"));
        }
    }
}
