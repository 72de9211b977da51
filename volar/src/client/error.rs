//! What can go wrong between volar and volantd. Says what happened; what to try is in `hints`.

use std::error::Error;
use std::io;
use std::time::Duration;

use common::api::Problem;
use common::exit_code::ExitCode;
use rustls::CertificateError;

use super::Endpoint;

/// A call that did not give what it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The HTTP client could not be set up.
    #[error("Cannot set up the HTTP client")]
    SetUp(#[source] reqwest::Error),
    /// Nobody listens there.
    #[error("volantd is not running at {endpoint}")]
    NotRunning {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket may not be used.
    #[error("You are not allowed to use {endpoint}")]
    Denied {
        /// The socket.
        endpoint: Endpoint,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The other side cannot prove who it is.
    #[error("The certificate of {endpoint} cannot be trusted")]
    Untrusted {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// What is wrong with it.
        #[source]
        source: Distrust,
    },
    /// No connection, for any other reason.
    #[error("Cannot connect to volantd at {endpoint}")]
    Connect {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// No complete answer in time.
    #[error("volantd did not answer `{call}` within {} s", limit.as_secs_f64())]
    Timeout {
        /// Method and path.
        call: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection ended in the middle.
    #[error("The connection to volantd ended before `{call}` was answered")]
    Cut {
        /// Method and path.
        call: String,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// volantd says no, and why.
    #[error("{}", refusal(.0))]
    Refused(Box<Problem>),
    /// The guest did not start a command, and says why.
    #[error("{}", refusal(.0))]
    NotStarted(Box<Problem>),
    /// An error without a problem document: perhaps not volantd.
    #[error("`{call}` was answered with HTTP status {status} and no explanation")]
    Status {
        /// Method and path.
        call: String,
        /// The status.
        status: u16,
    },
    /// A success that cannot be read.
    #[error("The answer to `{call}` is not what volantd answers")]
    Decode {
        /// Method and path.
        call: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// More than any answer has.
    #[error("The answer to `{call}` has more than {limit_bytes} bytes")]
    TooLarge {
        /// Method and path.
        call: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The WebSocket broke.
    #[error("The connection to the VM broke")]
    WebSocket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
}

/// Why a certificate is not trusted (RFC 5280 §6).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Distrust {
    /// It leads to no authority.
    #[error("No authority that is trusted has signed it")]
    UnknownIssuer,
    /// Its time is over.
    #[error("It has expired")]
    Expired,
    /// Its time has not come.
    #[error("It is not valid yet")]
    Early,
    /// It belongs to somebody else.
    #[error("It is made out to another name")]
    OtherName,
    /// Anything else.
    #[error("It is not valid: {0:?}")]
    Invalid(Box<CertificateError>),
}

impl From<&CertificateError> for Distrust {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::Early
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            other => Self::Invalid(Box::new(other.clone())),
        }
    }
}

/// The sentence that is shown for a problem; a daemon of another version may leave `detail` empty.
fn refusal(problem: &Problem) -> &str {
    [&problem.detail, &problem.error, &problem.title]
        .into_iter()
        .find(|text| !text.is_empty())
        .map_or(
            "volantd refused the request without a reason",
            String::as_str,
        )
}

impl ClientError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning { .. }
            | Self::Denied { .. }
            | Self::Untrusted { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Cut { .. }
            | Self::Decode { .. }
            | Self::TooLarge { .. }
            | Self::WebSocket(_) => ExitCode::Unavailable,
            Self::Refused(problem) => ExitCode::from_problem(problem.status, &problem.code),
            // What shells, ssh and docker say of a program, so that it is told apart from what a program says itself.
            Self::NotStarted(problem) => match problem.code.as_str() {
                "not-found" => ExitCode::ProgramNotFound,
                "not-executable" => ExitCode::NotExecutable,
                code => ExitCode::from_problem(problem.status, code),
            },
            // A redirect comes from something else than volantd.
            Self::Status { status, .. } if *status < 400 => ExitCode::Unavailable,
            Self::Status { status, .. } => ExitCode::from_problem(*status, ""),
            Self::SetUp(_) => ExitCode::Internal,
        }
    }

    /// The problem document, if volantd sent one.
    pub fn problem(&self) -> Option<&Problem> {
        if let Self::Refused(problem) | Self::NotStarted(problem) = self {
            Some(problem)
        } else {
            None
        }
    }

    /// Whether volantd may only be away for a moment, as when it is started again.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NotRunning { .. }
            | Self::Connect { .. }
            | Self::Cut { .. }
            | Self::Timeout { .. } => true,
            Self::Refused(problem) => problem.status == 503,
            // What stands before a daemon answers so while that is away.
            Self::Status { status, .. } => (502..=504).contains(status),
            Self::SetUp(_)
            | Self::Denied { .. }
            | Self::Decode { .. }
            | Self::TooLarge { .. }
            | Self::NotStarted(_)
            | Self::Untrusted { .. }
            | Self::WebSocket(_) => false,
        }
    }

    /// An error of connecting, by what the operating system said.
    pub(super) fn connect(endpoint: &Endpoint, source: io::Error) -> Self {
        let endpoint = endpoint.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NotRunning { endpoint, source }
            }
            io::ErrorKind::PermissionDenied => Self::Denied { endpoint, source },
            _ => Self::Connect {
                endpoint,
                source: Box::new(source),
            },
        }
    }

    /// An error of a call, by its kind.
    pub(super) fn call(
        endpoint: &Endpoint,
        call: &str,
        limit: Duration,
        source: reqwest::Error,
    ) -> Self {
        if source.is_timeout() {
            return Self::Timeout {
                call: call.to_owned(),
                limit,
            };
        }
        // The URL is an invented one for unix sockets, and the message names the call already.
        let source = source.without_url();
        if !source.is_connect() {
            return Self::Cut {
                call: call.to_owned(),
                source: Box::new(source),
            };
        }
        if let Some(distrust) = distrust(&source) {
            return Self::Untrusted {
                endpoint: endpoint.clone(),
                source: distrust,
            };
        }
        match io_cause(&source) {
            Some(cause) => {
                let again = cause.raw_os_error().map_or_else(
                    || io::Error::new(cause.kind(), cause.to_string()),
                    io::Error::from_raw_os_error,
                );
                Self::connect(endpoint, again)
            }
            None => Self::Connect {
                endpoint: endpoint.clone(),
                source: Box::new(source),
            },
        }
    }
}

/// What is wrong with the certificate, if that is the cause.
fn distrust(error: &(dyn Error + 'static)) -> Option<Distrust> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(error)) = unwrapped(error).downcast_ref() {
            return Some(error.into());
        }
        cause = error.source();
    }
    None
}

/// What I/O errors are made of: they do not give it as their source.
fn unwrapped<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => unwrapped(wrapped),
        None => error,
    }
}

/// The first error of the operating system among the causes.
fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_about_connecting_is_told_apart() {
        let endpoint: Endpoint = "unix:///run/volant/volantd.sock".parse().unwrap();
        let error = |kind| ClientError::connect(&endpoint, io::Error::from(kind));
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            assert!(matches!(error(kind), ClientError::NotRunning { .. }));
        }
        assert!(matches!(
            error(io::ErrorKind::PermissionDenied),
            ClientError::Denied { .. }
        ));
        assert!(matches!(
            error(io::ErrorKind::HostUnreachable),
            ClientError::Connect { .. }
        ));
        assert_eq!(
            error(io::ErrorKind::NotFound).to_string(),
            "volantd is not running at unix:///run/volant/volantd.sock"
        );
    }
}
