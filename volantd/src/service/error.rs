//! What can go wrong in the daemon, in the words of its users and without HTTP. `http/problem.rs` has the only map to status codes.

use std::error::Error;

use common::manifest::{FieldProblem, ManifestError};
use common::name::Name;
use serde::Serialize;

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

    /// Names the wrong members as the request has them: where `place` says they are, or what is around them there.
    #[must_use]
    pub fn placed<T: Serialize>(mut self, request: &T, place: impl Fn(&str) -> String) -> Self {
        let request = serde_json::to_value(request).unwrap_or_default();
        for field in &mut self.fields {
            let pointer = place(&field.pointer);
            let mut around = pointer.as_str();
            while request.pointer(around).is_none() {
                around = around.rsplit_once('/').map_or("", |(outer, _)| outer);
            }
            around.clone_into(&mut field.pointer);
        }
        self
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
        let kind = if error.only_unsupported {
            ErrorKind::NotImplemented
        } else {
            ErrorKind::Invalid
        };
        Self {
            fields: error.problems.clone(),
            ..Self::new(kind, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_members_are_named_as_the_request_has_them() {
        let request =
            json!({"name": "a", "cpu_cores": 9, "config": {"disks": [{"path": "/x"}], "a/b": 1}});
        let table = [
            ("/disks/0/path", "/config/disks/0/path"),
            ("/disks/0/name", "/config/disks/0"),
            ("/disks/3/name", "/config/disks"),
            ("/resources/memory_mb", "/config"),
            ("/a~1b", "/config/a~1b"),
        ];
        for (pointer, expected) in table {
            let error = ServiceError::field(pointer, "no");
            let placed = error.placed(&request, |pointer| format!("/config{pointer}"));
            assert_eq!(placed.fields[0].pointer, expected, "{pointer}");
        }
        let error = ServiceError::field("/env", "no").placed(&request, str::to_owned);
        assert_eq!(error.fields[0].pointer, "");
    }
}
