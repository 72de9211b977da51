//! Why an image cannot be had, with which exit code, and what can be done.

use std::io;
use std::path::PathBuf;

use common::exit_code::ExitCode;

use super::auth::AuthError;
use super::command::CommandError;
use super::config::ConfigError;
use super::descriptor::DescriptorError;
use super::dockerfile::DockerfileError;
use super::local::LocalError;
use super::registry::RegistryError;
use super::source::SourceError;
use super::spool::SpoolError;
use super::store::StoreError;
use super::unpack::UnpackError;
use crate::fetch::FetchError;

/// An image that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is called something impossible.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The credentials for the registry cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A container engine does not give it.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A file or directory does not hold it.
    #[error("Cannot use the image `{image}`")]
    Store {
        /// As the user wrote it.
        image: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Its Dockerfile cannot be built.
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// Its config cannot be used.
    #[error("Cannot use the image `{image}`")]
    Config {
        /// As the user wrote it.
        image: String,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// Its manifest and its config contradict each other.
    #[error("Cannot use the image `{image}`")]
    Layers {
        /// As the user wrote it.
        image: String,
        /// Why.
        #[source]
        source: DescriptorError,
    },
    /// One of its layers cannot be used.
    #[error("Cannot use the image `{image}`")]
    Unpack {
        /// As the user wrote it.
        image: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// There is no room for what an engine writes.
    #[error("Cannot keep the image in `{}`", directory.display())]
    Room {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The HTTP client cannot be set up.
    #[error("Cannot set up HTTPS")]
    Http(#[source] FetchError),
    /// The user pressed Ctrl-C.
    #[error("Interrupted")]
    Interrupted,
}

impl ImageError {
    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Registry(error) => registry_code(error),
            Self::Auth(AuthError::Helper {
                source: Some(error),
                ..
            }) => command_code(error),
            Self::Auth(_) | Self::Source(_) | Self::Layers { .. } | Self::Config { .. } => {
                ExitCode::Invalid
            }
            Self::Local(error) => local_code(error),
            Self::Store { source, .. } => store_code(source),
            Self::Dockerfile(error) => dockerfile_code(error),
            Self::Unpack { source, .. } => unpack_code(source),
            Self::Room { source, .. } => io_code(source),
            Self::Http(_) => ExitCode::Unavailable,
            Self::Interrupted => ExitCode::Interrupted,
        }
    }

    /// What can be done about it.
    pub fn hints(&self) -> Vec<String> {
        let hint = match self {
            Self::Registry(RegistryError::Unauthorized { registry, .. }) => {
                format!("log in with `docker login {registry}` or `podman login {registry}`; registries also say this of images that do not exist")
            }
            Self::Registry(RegistryError::Unreachable { .. } | RegistryError::Silent { .. }) => {
                "an image in a file needs no network: `oci-archive:FILE`, `docker-archive:FILE` or `oci:DIRECTORY`".to_owned()
            }
            Self::Dockerfile(DockerfileError::NoBuilder { .. }) => {
                "install one of them (Debian: `apt install buildah`), or name an image that is built".to_owned()
            }
            _ => return Vec::new(),
        };
        vec![hint]
    }
}

fn registry_code(error: &RegistryError) -> ExitCode {
    match error {
        RegistryError::Unreachable { .. }
        | RegistryError::Silent { .. }
        | RegistryError::Setup(_) => ExitCode::Unavailable,
        RegistryError::Status { status, .. }
            if status.is_server_error() || status.as_u16() == 429 =>
        {
            ExitCode::Unavailable
        }
        RegistryError::NotFound { .. } => ExitCode::NotFound,
        RegistryError::Digest { .. } | RegistryError::Size { .. } => ExitCode::Verification,
        RegistryError::Write { source, .. }
        | RegistryError::Cache(FetchError::Cache { source, .. }) => io_code(source),
        RegistryError::Interrupted => ExitCode::Interrupted,
        RegistryError::Cache(_)
        | RegistryError::Unauthorized { .. }
        | RegistryError::Status { .. }
        | RegistryError::MediaType { .. }
        | RegistryError::Login { .. }
        | RegistryError::Pin { .. }
        | RegistryError::TooLarge { .. }
        | RegistryError::Descriptor { .. } => ExitCode::Invalid,
    }
}

fn local_code(error: &LocalError) -> ExitCode {
    match error {
        LocalError::NoEngine { .. } | LocalError::NoImage { .. } => ExitCode::NotFound,
        LocalError::Save { source, .. } => command_code(source),
    }
}

fn store_code(error: &StoreError) -> ExitCode {
    match error {
        StoreError::NotFound { .. }
        | StoreError::Descriptor(DescriptorError::NoSuchName { .. }) => ExitCode::NotFound,
        StoreError::Damaged { .. } => ExitCode::Verification,
        StoreError::Unpack { source, .. } => spool_code(source),
        StoreError::Read { .. }
        | StoreError::NotAnImage { .. }
        | StoreError::NoLayout { .. }
        | StoreError::Archive { .. }
        | StoreError::Missing { .. }
        | StoreError::ReadPart { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Malformed(_)
        | StoreError::Descriptor(_) => ExitCode::Invalid,
    }
}

fn dockerfile_code(error: &DockerfileError) -> ExitCode {
    match error {
        DockerfileError::NotFound { .. }
        | DockerfileError::NoContext { .. }
        | DockerfileError::NoBuilder { .. } => ExitCode::NotFound,
        DockerfileError::Argument { .. } => ExitCode::Invalid,
        DockerfileError::Room { source, .. } => io_code(source),
        DockerfileError::Build { source, .. } => command_code(source),
    }
}

fn unpack_code(error: &UnpackError) -> ExitCode {
    match error {
        UnpackError::Spool { source, .. } => spool_code(source),
        UnpackError::Digest { .. } => ExitCode::Verification,
        UnpackError::Layer { .. } => ExitCode::Invalid,
        UnpackError::Interrupted => ExitCode::Interrupted,
    }
}

fn spool_code(error: &SpoolError) -> ExitCode {
    match error {
        SpoolError::Write { source, .. } => io_code(source),
        SpoolError::Interrupted => ExitCode::Interrupted,
        SpoolError::Read(_)
        | SpoolError::Decompress { .. }
        | SpoolError::Format { .. }
        | SpoolError::Exhausted(_) => ExitCode::Invalid,
    }
}

fn command_code(error: &CommandError) -> ExitCode {
    match error {
        CommandError::Timeout { .. } => ExitCode::Unavailable,
        CommandError::Interrupted => ExitCode::Interrupted,
        CommandError::Start { .. } | CommandError::Failed { .. } => ExitCode::Invalid,
    }
}

fn io_code(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ExitCode::Capacity
        }
        _ => ExitCode::Invalid,
    }
}
