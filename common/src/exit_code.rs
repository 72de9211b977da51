//! The exit codes of Volant's command lines. Only numbers with names: who maps what to which is the programs' work.

/// How a command ended, as a number that scripts can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// All went well.
    Success,
    /// The request or its input is wrong.
    Invalid,
    /// The command line itself is wrong (clap uses the same number).
    Usage,
    /// The named thing does not exist.
    NotFound,
    /// It exists already, or is in a state that does not allow this.
    Conflict,
    /// The daemon, a registry or the hypervisor cannot be reached.
    Unavailable,
    /// A checksum or signature does not match.
    Verification,
    /// The host has no address, memory or space left.
    Capacity,
    /// A bug in Volant.
    Internal,
    /// The deadline of a wait passed.
    Timeout,
    /// A program to be run in a guest cannot be executed (as shells say it: POSIX, Shell Command Language, 2.8.2).
    NotExecutable,
    /// A program to be run in a guest is not there (the same).
    ProgramNotFound,
    /// Ended by Ctrl-C (128 + SIGINT).
    Interrupted,
}

impl ExitCode {
    /// The number given to the operating system.
    pub const fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Invalid => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Verification => 6,
            Self::Capacity => 7,
            Self::Internal => 70,
            Self::Timeout => 124,
            Self::NotExecutable => 126,
            Self::ProgramNotFound => 127,
            Self::Interrupted => 130,
        }
    }

    /// The exit code that goes with an HTTP status of the API.
    ///
    /// `code` is the stable problem code: a failed verification shares status 422 with other mistakes.
    pub fn from_problem(status: u16, code: &str) -> Self {
        match (status, code) {
            (_, "checksum-mismatch" | "bad-signature") => Self::Verification,
            (_, "wait-timeout") => Self::Timeout,
            (404, _) => Self::NotFound,
            (409 | 412, _) => Self::Conflict,
            (502..=504, _) => Self::Unavailable,
            (507, _) => Self::Capacity,
            (400..=499 | 501, _) => Self::Invalid,
            _ => Self::Internal,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_map_to_exit_codes() {
        let table = [
            (422, "checksum-mismatch", ExitCode::Verification),
            (422, "invalid-request", ExitCode::Invalid),
            (400, "invalid-request", ExitCode::Invalid),
            (404, "vm-not-found", ExitCode::NotFound),
            (409, "vm-exists", ExitCode::Conflict),
            (501, "not-implemented", ExitCode::Invalid),
            (503, "unavailable", ExitCode::Unavailable),
            (504, "wait-timeout", ExitCode::Timeout),
            (507, "no-capacity", ExitCode::Capacity),
            (500, "internal", ExitCode::Internal),
        ];
        for (status, code, expected) in table {
            assert_eq!(
                ExitCode::from_problem(status, code),
                expected,
                "{status} {code}"
            );
        }
    }
}
