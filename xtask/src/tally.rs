//! What was checked, and what was not and why. A skip is said at once, where it happens, and never counts as passed.

use std::fmt;

use crate::printer;

/// Counts of checks, tests among them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Each with its reason.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// Notes a skip and says it.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        let skip = format!("{what}, because {why}");
        printer::progress("SKIPPED", &skip);
        self.skipped.push(skip);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped.is_empty()
    }
}

/// One line that test reports understand.
impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped.len();
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)?;
        if skipped > 0 {
            write!(formatter, ", {skipped} skipped")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_plain() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0 passed, 0 failed");
        assert!(tally.is_empty());
        tally.add(Tally {
            passed: 3,
            failed: 1,
            skipped: vec!["the boot, because of the test".to_owned()],
        });
        assert_eq!(tally.to_string(), "3 passed, 1 failed, 1 skipped");
        assert!(!tally.is_empty());
    }
}
