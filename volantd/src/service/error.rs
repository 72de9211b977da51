//! What can go wrong in the daemon, in the words of its users and without HTTP. `http/problem.rs` has the only map to status codes.

use std::error::Error;

use common::manifest::{FieldProblem, ManifestError};
use common::name::Name;

use crate::machine::ports::StepError;

/// What kind of error it is: who reacts, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong; the same again is wrong again.
    Invalid,
    /// This version of Volant cannot do it yet.
    NotImplemented,
    /// No such version of a VM's configuration.
    ConfigVersionNotFound,
    /// There is a newer version than the one that was named.
    VersionMismatch,
    /// What was waited for did not come in time.
    WaitTimeout,
    /// No such VM.
    VmNotFound,
    /// No such plugin.
    PluginNotFound,
    /// No such artifact.
    ArtifactNotFound,
    /// Somebody needs the artifact.
    ArtifactInUse,
    /// The same idempotency key came with another request before.
    IdempotencyMismatch,
    /// The name is taken.
    VmExists,
    /// The plugin is switched off.
    PluginDisabled,
    /// The VM's phase does not allow it.
    WrongPhase,
    /// The plugin has no such action.
    ActionNotFound,
    /// The VM is not of the plugin's runtime.
    RuntimeMismatch,
    /// It is not clear which VM is meant.
    AmbiguousVm,
    /// The guest does not answer, or not as it should.
    GuestUnreachable,
    /// The guest took too long.
    GuestTimedOut,
    /// Nobody has a description of the VM's API.
    OpenapiNotFound,
    /// The description of the VM's API cannot be had from where its manifest says.
    OpenapiUnavailable,
    /// A checksum does not match.
    ChecksumMismatch,
    /// A signature is missing, or does not hold.
    BadSignature,
    /// No address, memory or disk is left.
    NoCapacity,
    /// Something outside the daemon is missing or does not answer.
    Unavailable,
    /// A bug, or a broken host.
    Internal,
}

/// An error with a sentence for the user, what to try, and causes for the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ServiceError {
    /// What kind.
    pub kind: ErrorKind,
    /// A plain sentence.
    pub message: String,
    /// What to try.
    pub hints: Vec<String>,
    /// Every wrong member of the request.
    pub fields: Vec<FieldProblem>,
    /// The cause, for the log.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl ServiceError {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
            fields: Vec::new(),
            source: None,
        }
    }

    /// Adds something to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// A member of the request is wrong.
    pub fn field(pointer: &str, detail: impl Into<String>) -> Self {
        let problem = FieldProblem::new(pointer, detail);
        Self {
            fields: vec![problem.clone()],
            ..Self::new(ErrorKind::Invalid, problem.detail)
        }
    }

    /// No such VM.
    pub fn no_vm(name: &Name) -> Self {
        Self::new(ErrorKind::VmNotFound, format!("There is no VM `{name}`"))
            .hint("`volar vms list` shows all VMs")
    }

    /// No such plugin.
    pub fn no_plugin(name: &Name) -> Self {
        Self::new(
            ErrorKind::PluginNotFound,
            format!("There is no plugin `{name}`"),
        )
        .hint("`volar plugins list` shows all plugins, `volar plugins install` adds one")
    }

    /// A step of the host failed; the sentence is the step's.
    pub fn step(kind: ErrorKind, error: StepError) -> Self {
        Self {
            hints: error.hints,
            source: error.source,
            ..Self::new(kind, error.message)
        }
    }
}

impl From<ManifestError> for ServiceError {
    fn from(error: ManifestError) -> Self {
        Self {
            fields: error.problems.clone(),
            ..Self::new(ErrorKind::Invalid, error.to_string())
        }
    }
}
