//! Why a server does not answer: the cause that says something, without the layers of clients and pools above it, and without URLs,
//! which may hold secrets.

use std::error::Error;
use std::fmt;

/// A request that came to nothing. It says its innermost cause, such as `Connection refused (os error 111)`, and has no other.
#[derive(Debug)]
pub struct ConnectionError {
    inner: reqwest::Error,
}

impl ConnectionError {
    /// Whether no connection came about.
    pub(crate) fn is_connect(&self) -> bool {
        self.inner.is_connect()
    }
}

impl From<reqwest::Error> for ConnectionError {
    fn from(error: reqwest::Error) -> Self {
        // URLs of redirects carry signatures.
        Self {
            inner: error.without_url(),
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where a limit of ours ended it, there may be no cause, or one that says less.
        if self.inner.is_timeout() {
            return f.write_str("It does not answer in time");
        }
        let mut cause: &dyn Error = &self.inner;
        while let Some(next) = cause.source() {
            cause = next;
        }
        fmt::Display::fmt(cause, f)
    }
}

impl Error for ConnectionError {}
