//! Why an image cannot be written, the same for all formats.

use std::io;

use crate::tree::CopyError;

/// An image that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A path, a name or a link's target does not fit the format.
    #[error("`{path}` does not fit: {why}")]
    Name {
        /// The path in the image.
        path: String,
        /// A clause, such as "a name has at most 255 bytes".
        why: String,
    },
    /// The file does not fit the format.
    #[error("`{path}` has {size_bytes} bytes: {why}")]
    FileTooLarge {
        /// The path in the image.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// A clause with the format's limit, such as "an initramfs holds files of less than 4 GiB".
        why: &'static str,
    },
    /// Something else does not fit the format.
    #[error("`{path}` cannot be in such an image: {why}")]
    Unsupported {
        /// The path in the image.
        path: String,
        /// A clause.
        why: String,
    },
    /// The image as a whole does not fit the format; a plain sentence.
    #[error("{0}")]
    TooLarge(String),
    /// The content is not as long as was said: somebody writes to the file.
    #[error("The file behind `{path}` changed its size while it was read")]
    Changed {
        /// The path in the image.
        path: String,
    },
    /// The content cannot be read.
    #[error("Cannot read the file behind `{path}`")]
    Content {
        /// The path in the image.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image itself cannot be written.
    #[error("Cannot write the image")]
    Output(#[from] io::Error),
}

impl WriteError {
    /// What copying the content of `path` gave.
    pub fn copying(path: &[u8], error: CopyError) -> Self {
        let path = shown(path);
        match error {
            CopyError::Read(source) => Self::Content { path, source },
            CopyError::Changed => Self::Changed { path },
            CopyError::Write(source) => Self::Output(source),
        }
    }
}

/// A path as it is shown: with its `/`, at most 200 characters, escaped.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let escaped = text.chars().take(200).flat_map(char::escape_debug);
    std::iter::once('/').chain(escaped).collect()
}
