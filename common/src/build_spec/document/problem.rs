//! A problem as it is shown: file, line and column, a sentence, and the line with the place marked.

use std::fmt;
use std::ops::Range;

/// The most characters of a line that are shown: what fits on most terminals.
const MAX_EXCERPT_CHARS: usize = 100;

/// The most problems that are shown of one file: whoever mended these runs the check again.
pub(super) const MAX_PROBLEMS: usize = 50;

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place, if there is one to point at.
    pub place: Option<Place>,
    /// What is wrong.
    pub sentence: String,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The line or a part of it, without control characters.
    excerpt: String,
    /// Which characters of the excerpt are meant.
    marked: Range<usize>,
}

impl Problem {
    /// A problem of the bytes `span` of `text`.
    pub(super) fn new(text: &str, span: Option<Range<usize>>, sentence: impl Into<String>) -> Self {
        Self {
            place: span.map(|span| Place::new(text, &span)),
            sentence: sentence.into(),
        }
    }
}

impl Place {
    fn new(text: &str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let before = text[line_start..start].chars().count();
        let meant = text[start..end.min(line_end)].chars().count().max(1);
        // A long line is shown from a little before what is meant.
        let from = if before + meant > MAX_EXCERPT_CHARS {
            before.saturating_sub(MAX_EXCERPT_CHARS / 4)
        } else {
            0
        };
        let excerpt: String = line
            .chars()
            .skip(from)
            .take(MAX_EXCERPT_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let begin = before - from;
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            marked: begin..(begin + meant).min(MAX_EXCERPT_CHARS.max(begin + 1)),
            excerpt,
        }
    }
}

/// Everything that is wrong in a file, from top to bottom; at least one problem.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
    file: String,
}

impl Problems {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self {
            problems,
            file: String::new(),
        }
    }

    /// The same problems with the name of the file that has them.
    #[must_use]
    pub fn of_file(mut self, name: impl Into<String>) -> Self {
        self.file = name.into();
        self
    }

    /// Each problem.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// Each problem as a text of one or several lines, such as `fledge.toml:3:1: …`.
    pub fn texts(&self) -> Vec<String> {
        let shown = self.problems.iter().take(MAX_PROBLEMS);
        let mut texts: Vec<String> = shown.map(|problem| self.text(problem)).collect();
        if self.problems.len() > MAX_PROBLEMS {
            texts.push(format!(
                "and more: only the first {MAX_PROBLEMS} problems are shown"
            ));
        }
        texts
    }

    fn text(&self, problem: &Problem) -> String {
        let sentence = &problem.sentence;
        let Some(place) = &problem.place else {
            let colon = if self.file.is_empty() { "" } else { ": " };
            return format!("{}{colon}{sentence}", self.file);
        };
        let Place {
            line,
            column,
            excerpt,
            marked,
        } = place;
        let colon = if self.file.is_empty() { "" } else { ":" };
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let blanks = " ".repeat(marked.start);
        let carets = "^".repeat(marked.len());
        format!(
            "{}{colon}{line}:{column}: {sentence}\n{gutter} |\n{number} | {excerpt}\n{gutter} | {blanks}{carets}",
            self.file
        )
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for Problems {}

impl FromIterator<String> for Problems {
    /// Problems without a place.
    fn from_iter<T: IntoIterator<Item = String>>(sentences: T) -> Self {
        let problem = |sentence| Problem {
            place: None,
            sentence,
        };
        Self::new(sentences.into_iter().map(problem).collect())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join("\n"))
    }
}
