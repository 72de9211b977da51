//! What can be wrong with a request about VMs. Knows nothing of HTTP.

use common::api::Failure;
use common::cmdline::CmdlineError;
use common::name::Name;

use super::lease::NoAddress;
use super::ports::StepError;
use super::record::JournalError;
use super::requests::{Denial, Request};

/// A request about VMs that was not met.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The name is taken.
    #[error("A VM named `{name}` exists already")]
    Exists {
        /// The name.
        name: Name,
    },
    /// There is no such VM.
    #[error("There is no VM `{name}`")]
    NotFound {
        /// The name.
        name: Name,
    },
    /// The VM's phase does not allow it.
    #[error("Cannot {} the VM `{name}`: {reason}", request.as_str())]
    Denied {
        /// The VM.
        name: Name,
        /// What was asked.
        request: Request,
        /// Why not.
        reason: Denial,
    },
    /// The VMM did not pause or resume its guest.
    #[error("The VM `{name}` did not {}: {}", request.as_str(), failure.cause)]
    NotMoved {
        /// The VM.
        name: Name,
        /// What was asked.
        request: Request,
        /// Why not.
        failure: Failure,
    },
    /// The VM's phase does not allow another configuration.
    #[error("Cannot configure the VM `{name}`: {reason}")]
    NotReconfigured {
        /// The VM.
        name: Name,
        /// Why not.
        reason: Denial,
    },
    /// There is a newer configuration by now.
    #[error("The configuration of the VM `{name}` has version {present} by now")]
    VersionMismatch {
        /// The VM.
        name: Name,
        /// The newest version.
        present: u64,
    },
    /// No address is left for another VM.
    #[error(transparent)]
    NoAddress(#[from] NoAddress),
    /// The kernel command line does not fit.
    #[error("The VM's kernel command line is refused")]
    Cmdline(#[source] CmdlineError),
    /// No VM can be launched on this host. The [`StepError`] has the sentence and hints for the user.
    #[error("No VM can be launched")]
    CannotLaunch(#[source] StepError),
    /// The store failed.
    #[error("The daemon's database failed")]
    Store(#[source] JournalError),
    /// Something of the VM could not be removed. It is tried again until it succeeds.
    #[error("The VM `{name}` is not removed completely yet: {}", failure.cause)]
    NotRemoved {
        /// The VM.
        name: Name,
        /// What could not be removed.
        failure: Failure,
    },
    /// The operating system gave no random bytes.
    #[error("Cannot make a secret for the VM")]
    Secret(#[source] std::io::Error),
    /// The VM's driver is gone: the daemon ends, or the driver failed in a way that is a bug and is being replaced.
    #[error("The request about the VM `{name}` was interrupted")]
    Interrupted {
        /// The VM.
        name: Name,
    },
}

impl From<JournalError> for MachineError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Exists { name } => Self::Exists { name },
            JournalError::NoAddress(error) => Self::NoAddress(error),
            failed @ JournalError::Failed { .. } => Self::Store(failed),
        }
    }
}
