//! Text from elsewhere, made harmless for a terminal. A guest may write anything to its console; it must not drive the user's terminal.

/// The longest colour sequence that is let through. Real ones have some twenty characters.
const MAX_SGR_CHARS: usize = 32;

/// One line without control characters: they are shown escaped, so that nothing is hidden either.
pub fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = is_harmful(c).then(|| c.escape_debug());
            let kept = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(kept)
        })
        .collect()
}

/// Whether a terminal obeys a character instead of showing it, or shows others elsewhere for it.
pub fn is_harmful(c: char) -> bool {
    c.is_control() || is_deceptive(c)
}

/// Text of several lines without anything that a terminal obeys, but for colours where they are wanted.
pub fn harmless(text: &str, keeps_colors: bool) -> String {
    let mut filter = Sanitizer::new(keeps_colors);
    let mut harmless = filter.push(text.as_bytes());
    harmless.push_str(&filter.finish());
    harmless
}

/// Characters that change the order in which others are shown (Unicode TR #36 §2.3).
const fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Where in a control sequence the text is (ECMA-48 §5.4, §5.6).
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Plain text.
    Ground,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate character: one more belongs to it.
    EscapeIntermediate,
    /// After CSI, with the parameters so far.
    Csi(String),
    /// In a string such as a window title, until BEL or ST.
    ControlString,
    /// In such a string, after ESC.
    ControlStringEscape,
}

/// Lets text, line breaks, tabs and colours of a stream through, and nothing else that a terminal obeys.
///
/// A carriage return alone becomes a line break, because it would let a guest write over lines that were shown before.
#[derive(Debug)]
pub struct Sanitizer {
    state: State,
    partial: Vec<u8>,
    after_return: bool,
    keeps_colors: bool,
    colored: bool,
}

impl Sanitizer {
    /// A filter at the beginning of a stream.
    pub const fn new(keeps_colors: bool) -> Self {
        Self {
            state: State::Ground,
            partial: Vec::new(),
            after_return: false,
            keeps_colors,
            colored: false,
        }
    }

    /// The harmless part of the next bytes. What is incomplete waits for the bytes after them.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut input = std::mem::take(&mut self.partial);
        input.extend_from_slice(bytes);
        let mut rest = input.as_slice();
        let mut out = String::with_capacity(rest.len());
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.push_str(text, &mut out);
                    return out;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.push_str(&String::from_utf8_lossy(good), &mut out);
                    let Some(length) = error.error_len() else {
                        self.partial = bad.to_vec();
                        return out;
                    };
                    self.push_char(char::REPLACEMENT_CHARACTER, &mut out);
                    rest = &bad[length..];
                }
            }
        }
    }

    /// What is left at the end of the stream, and the end of any colour.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        if !std::mem::take(&mut self.partial).is_empty() {
            self.push_char(char::REPLACEMENT_CHARACTER, &mut out);
        }
        if std::mem::take(&mut self.after_return) {
            out.push('\n');
        }
        if std::mem::take(&mut self.colored) {
            out.push_str("\u{1b}[0m");
        }
        out
    }

    fn push_str(&mut self, text: &str, out: &mut String) {
        for c in text.chars() {
            self.push_char(c, out);
        }
    }

    fn push_char(&mut self, c: char, out: &mut String) {
        let state = std::mem::replace(&mut self.state, State::Ground);
        self.state = match (state, c) {
            // A string that never ends would hide the rest of the log: a line break ends it here.
            (State::ControlString | State::ControlStringEscape, '\n') => {
                self.ground(c, out);
                State::Ground
            }
            // CAN and SUB end any sequence, as in every terminal since the VT100; BEL and ST end a string.
            (_, '\u{18}' | '\u{1a}')
            | (State::ControlString, '\u{7}' | '\u{9c}')
            | (State::ControlStringEscape, '\\') => State::Ground,
            (State::ControlString, '\u{1b}') => State::ControlStringEscape,
            (State::ControlString, _) => State::ControlString,
            (State::Escape | State::ControlStringEscape, '[') => State::Csi(String::new()),
            (State::Escape | State::ControlStringEscape, ']' | 'P' | 'X' | '^' | '_') => {
                State::ControlString
            }
            (State::Escape | State::EscapeIntermediate, ' '..='/') => State::EscapeIntermediate,
            (State::Escape | State::EscapeIntermediate | State::ControlStringEscape, ' '..) => {
                State::Ground
            }
            (State::Csi(parameters), ' '..='?') => {
                let mut parameters = parameters;
                // One more than allowed marks it as too long; more need not be kept.
                if parameters.len() <= MAX_SGR_CHARS {
                    parameters.push(c);
                }
                State::Csi(parameters)
            }
            (State::Csi(parameters), '@'..='~') => {
                self.end_csi(&parameters, c, out);
                State::Ground
            }
            (_, '\u{1b}') => State::Escape,
            (_, '\u{9b}') => State::Csi(String::new()),
            (_, '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}') => State::ControlString,
            (state, '\n' | '\r' | '\t') => {
                self.ground(c, out);
                state
            }
            (state, c) if c.is_control() => state,
            (_, c) => {
                self.ground(c, out);
                State::Ground
            }
        };
    }

    fn ground(&mut self, c: char, out: &mut String) {
        if c == '\r' {
            self.after_return = true;
            return;
        }
        if std::mem::take(&mut self.after_return) && c != '\n' {
            out.push('\n');
        }
        if !is_deceptive(c) {
            out.push(c);
        }
    }

    fn end_csi(&mut self, parameters: &str, last: char, out: &mut String) {
        let numbers = |c: char| c.is_ascii_digit() || c == ';' || c == ':';
        let is_color =
            last == 'm' && parameters.len() <= MAX_SGR_CHARS && parameters.chars().all(numbers);
        if is_color && self.keeps_colors {
            out.extend(["\u{1b}[", parameters, "m"]);
            self.colored = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn sanitized(input: &[u8]) -> String {
        let mut sanitizer = Sanitizer::new(true);
        let mut out = sanitizer.push(input);
        out.push_str(&sanitizer.finish());
        out
    }

    #[test]
    fn only_text_and_colours_are_left() {
        let table: &[(&str, &str)] = &[
            ("plain\n", "plain\n"),
            ("a\r\nb\r\r\nc", "a\nb\nc"),
            ("hidden\rshown", "hidden\nshown"),
            ("end\r", "end\n"),
            ("a\tb\u{8}\u{7}\0c", "a\tbc"),
            ("\u{1b}[31mred\u{1b}[0m", "\u{1b}[31mred\u{1b}[0m\u{1b}[0m"),
            ("\u{1b}[38;2;1;2;3mx", "\u{1b}[38;2;1;2;3mx\u{1b}[0m"),
            ("\u{1b}[2J\u{1b}[1;1Hx", "x"),
            ("\u{1b}[?1049hx", "x"),
            ("\u{1b}[>4mx", "x"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]52;c;aGk=\u{1b}\\x", "x"),
            ("\u{1b}P+q544e\u{1b}\\x", "x"),
            ("\u{1b}cx\u{1b}(Bx\u{1b}=x", "xxx"),
            ("\u{9b}2Jx\u{9d}0;t\u{9c}x", "xx"),
            ("\u{1b}]0;\u{1b}[2Jx", "x"),
            ("\u{1b}[12\u{18}x", "x"),
            ("\u{1b}]0;never ends\nx", "\nx"),
            ("é\u{202e}ü", "éü"),
        ];
        for (input, expected) in table {
            assert_eq!(sanitized(input.as_bytes()), *expected, "{input:?}");
        }
        assert_eq!(sanitized(b"a\xffb\xc3"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn without_colours_there_are_none() {
        let mut sanitizer = Sanitizer::new(false);
        assert_eq!(sanitizer.push(b"\x1b[31mred\x1b[0m"), "red");
        assert_eq!(sanitizer.finish(), "");
    }

    #[test]
    fn plain_shows_what_it_removes() {
        assert_eq!(plain("a\u{1b}[2J\nb é"), "a\\u{1b}[2J\\nb é");
    }

    proptest! {
        #[test]
        fn no_bytes_get_a_sequence_through(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let out = sanitized(&bytes);
            let mut rest = out.as_str();
            while let Some(at) = rest.find('\u{1b}') {
                let sequence = &rest[at + 1..];
                let end = sequence.find('m').unwrap();
                prop_assert!(sequence.starts_with('['));
                prop_assert!(sequence[1..end].chars().all(|c| c.is_ascii_digit() || ";:".contains(c)));
                rest = &sequence[end..];
            }
            let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t' | '\u{1b}');
            prop_assert!(out.chars().all(harmless));
        }

        #[test]
        fn it_does_not_matter_where_the_stream_is_cut(
            text in "[a-z\u{1b}\\[\\]0-9;m\r\n\u{7}é]{0,60}",
            at in 0_usize..200,
        ) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            let mut sanitizer = Sanitizer::new(true);
            let mut out = sanitizer.push(&bytes[..at]);
            out.push_str(&sanitizer.push(&bytes[at..]));
            out.push_str(&sanitizer.finish());
            prop_assert_eq!(out, sanitized(bytes));
        }
    }
}
