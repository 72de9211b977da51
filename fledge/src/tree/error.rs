//! Why something cannot lie where it should. Paths are shown as in the guest.

use super::MAX_ENTRIES;

/// Something that cannot lie where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A path leads through something that is not a directory.
    #[error("`{path}` cannot be placed: `{parent}` is {what}, not a directory")]
    NotADirectory {
        /// The path.
        path: String,
        /// What is in its way.
        parent: String,
        /// What that is.
        what: &'static str,
    },
    /// A directory would become something else, or the reverse.
    #[error("`{path}` is both {present} and {new}")]
    Conflict {
        /// The path.
        path: String,
        /// What is there.
        present: &'static str,
        /// What should be.
        new: &'static str,
    },
    /// Two mappings name one path.
    #[error("Two mappings lead to `{path}`")]
    Twice {
        /// The path.
        path: String,
    },
    /// The agent would be replaced.
    #[error("`{path}` belongs to the agent and cannot be replaced by a mapping")]
    Protected {
        /// The path.
        path: String,
    },
    /// A hard link to nothing, or to a directory.
    #[error("`{path}` is a hard link to `{target}`, which is {what}")]
    HardLink {
        /// The path.
        path: String,
        /// Where it leads.
        target: String,
        /// What is there.
        what: &'static str,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("The image would have more than {MAX_ENTRIES} files and directories")]
    TooMany,
}
