//! Shows an error with all of its causes on one line. Does not decide what a user sees: that is the programs' work.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources as `a: b: c`.
///
/// ```
/// use common::error_chain::Chain;
/// let error = std::io::Error::other("Disk is full");
/// assert_eq!(Chain(&error).to_string(), "Disk is full");
/// ```
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        for cause in causes(self.0) {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

/// The messages of all sources of `error`, outermost first, without repeats of the message before.
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut previous = error.to_string();
    let mut source = error.source();
    let mut found = Vec::new();
    while let Some(cause) = source {
        let message = cause.to_string();
        // Some libraries print their source inside their own message: showing it twice helps nobody.
        if !previous.ends_with(&message) {
            found.push(message.clone());
        }
        previous = message;
        source = cause.source();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Cannot read `x`")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("outer says: inner")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner;

    #[test]
    fn each_message_is_shown_once() {
        let error = Outer(Middle(Inner));
        assert_eq!(
            Chain(&error).to_string(),
            "Cannot read `x`: outer says: inner"
        );
    }
}
