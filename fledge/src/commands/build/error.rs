//! Why a build fails, with which exit code, and what can be done.

use std::io;
use std::path::PathBuf;

use common::build_spec::{BuildSpecError, Problems, TemplateError};
use common::exit_code::ExitCode;

use crate::assemble::AssembleError;
use crate::commands::small_file::FileError;
use crate::commands::staged::is_full;
use crate::confinement::ConfinementError;
use crate::fetch::FetchError;
use crate::image::WriteError;
use crate::oci::ImageError;
use crate::plan::PlanError;
use crate::sbom::SbomError;
use crate::tree::host::HostError;
use crate::workload::WorkloadError;

/// A build that failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Spec or manifest cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The build spec is refused.
    #[error("The build spec `{}` is not valid", path.display())]
    Spec {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: BuildSpecError,
    },
    /// The manifest cannot be understood.
    #[error("Cannot use the manifest `{}`", path.display())]
    Template {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// The manifest is refused.
    #[error("Cannot use the manifest `{}`", path.display())]
    Manifest {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: Problems,
    },
    /// The image does not say what to run, and nobody else does.
    #[error("The image `{image}` names no program to run")]
    NoProgram {
        /// Its reference, or its Dockerfile.
        image: String,
    },
    /// What the image says of itself is not enough for a manifest, or wrong.
    #[error("What the image `{image}` says of itself makes no manifest")]
    ImageManifest {
        /// Its reference, or its Dockerfile.
        image: String,
        /// Why.
        #[source]
        source: Problems,
    },
    /// A flag says something of a Dockerfile, and there is none.
    #[error("`{flag}` needs a Dockerfile: name it, as in `fledge build Dockerfile`")]
    NeedsDockerfile {
        /// The flag.
        flag: &'static str,
    },
    /// The artifact's directory does not exist.
    #[error("The directory `{}` for the artifact does not exist", path.display())]
    NoOutputDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The artifact would replace a directory.
    #[error("`{}` is a directory: name the file to write", path.display())]
    OutputIsDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file that the spec or the request names lies where it may not.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// The artifact would replace a device, a named pipe or a link.
    #[error("`{}` is neither a file nor free: it is not replaced", path.display())]
    OutputIsNoFile {
        /// The path.
        path: PathBuf,
    },
    /// The artifact would replace what it is built from.
    #[error("`{}` is read by this build: write the artifact somewhere else", path.display())]
    OutputIsInput {
        /// The path.
        path: PathBuf,
    },
    /// The artifact would lie among what it is built from.
    #[error("`{}` would lie in `{}`, which this build takes whole: the next image would hold this one", path.display(), directory.display())]
    OutputInInput {
        /// The path.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// The artifact would replace a file that a Dockerfile may copy.
    #[error("`{}` is there, in the context of the Dockerfile, and no artifact of an earlier build: it is not replaced", path.display())]
    OutputInContext {
        /// The path.
        path: PathBuf,
    },
    /// Flags contradict the spec.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file cannot be had.
    #[error("There is no {name} for the image")]
    Fetch {
        /// What it is.
        name: &'static str,
        /// The flag that names another one.
        flag: &'static str,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// A `[[fetch]]` cannot be had.
    #[error("There is no file for `{path}`")]
    Download {
        /// Where it would go.
        path: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The container image cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the host cannot be read.
    #[error("Cannot use `{}`", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// The image cannot be put together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// The workload would not start.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The image cannot be packed.
    #[error("Cannot pack the image")]
    Pack(#[source] WriteError),
    /// The bill of materials cannot be composed.
    #[error("Cannot list what is in the image")]
    Sbom(#[from] SbomError),
    /// A document beside the artifact cannot be written as JSON; never happens.
    #[error("Cannot describe the artifact")]
    Document(#[from] serde_json::Error),
    /// The artifact costs more than it may.
    #[error(
        "The artifact `{}` costs {found} {unit} of {what} while a VM boots, and the budget is {limit} {unit}", path.display()
    )]
    Budget {
        /// The artifact's path.
        path: PathBuf,
        /// What is spent.
        what: &'static str,
        /// The unit of both numbers.
        unit: &'static str,
        /// What it costs.
        found: u64,
        /// What it may cost.
        limit: u64,
    },
    /// A file cannot be written.
    #[error("Cannot write `{}`", path.display())]
    Output {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What lies beside an artifact that is not there any more cannot be removed.
    #[error("Cannot remove `{}`, which is of an earlier artifact", path.display())]
    Stale {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The runtime cannot be started.
    #[error("Cannot start")]
    Runtime(#[source] io::Error),
    /// The user pressed Ctrl-C.
    #[error("Interrupted; nothing was written")]
    Interrupted,
}

impl BuildError {
    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::File(error) => error.exit_code(),
            Self::NoOutputDirectory { .. }
            | Self::Assemble(AssembleError::Host(HostError::NotFound { .. })) => ExitCode::NotFound,
            Self::Fetch { source, .. }
            | Self::Download { source, .. }
            | Self::Input { source, .. } => fetch_code(source),
            Self::Image(error) => error.exit_code(),
            Self::Output { source, .. } if is_full(source) => ExitCode::Capacity,
            Self::Interrupted => ExitCode::Interrupted,
            Self::Document(_) | Self::Runtime(_) => ExitCode::Internal,
            Self::NoProgram { .. }
            | Self::ImageManifest { .. }
            | Self::Stale { .. }
            | Self::NeedsDockerfile { .. }
            | Self::Sbom(_)
            | Self::Budget { .. }
            | Self::Spec { .. }
            | Self::Template { .. }
            | Self::Manifest { .. }
            | Self::OutputIsDirectory { .. }
            | Self::OutputIsNoFile { .. }
            | Self::OutputIsInput { .. }
            | Self::OutputInInput { .. }
            | Self::OutputInContext { .. }
            | Self::Confinement(_)
            | Self::Plan(_)
            | Self::Assemble(_)
            | Self::Workload(_)
            | Self::Pack(_)
            | Self::Output { .. } => ExitCode::Invalid,
        }
    }

    /// What can be done about it.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::File(FileError::NotFound {
                what: "build spec", ..
            }) => {
                vec!["run it in the plugin's directory, or name the spec with --config".to_owned()]
            }
            Self::Fetch {
                flag,
                source: FetchError::Unreachable { .. } | FetchError::Status { .. },
                ..
            } => {
                vec![format!(
                    "{flag} FILE takes one from this machine, without a network"
                )]
            }
            Self::Image(error) => error.hints(),
            Self::NoProgram { .. } => {
                vec!["say it in `manifest.toml`: `entrypoint = [\"/path/of/the/program\"]` under `[workload]`".to_owned()]
            }
            Self::ImageManifest { .. } => {
                vec!["what `manifest.toml` says comes before what the image says".to_owned()]
            }
            Self::OutputInInput { .. } => {
                vec!["--output FILE writes it somewhere else".to_owned()]
            }
            Self::OutputInContext { .. } => {
                vec!["remove the file, or write somewhere else with --output FILE".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

fn fetch_code(error: &FetchError) -> ExitCode {
    match error {
        FetchError::Unreachable { .. } | FetchError::Setup(_) => ExitCode::Unavailable,
        FetchError::Status { status, .. } if status.is_server_error() => ExitCode::Unavailable,
        FetchError::Status { .. } | FetchError::NotFound { .. } => ExitCode::NotFound,
        FetchError::Nowhere { failures } => {
            failures.last().map_or(ExitCode::Unavailable, fetch_code)
        }
        FetchError::Checksum { .. } | FetchError::NoChecksum { .. } => ExitCode::Verification,
        FetchError::Write { source, .. } | FetchError::Cache { source, .. } if is_full(source) => {
            ExitCode::Capacity
        }
        FetchError::Interrupted => ExitCode::Interrupted,
        FetchError::TooLarge { .. }
        | FetchError::NotAFile { .. }
        | FetchError::Read { .. }
        | FetchError::Write { .. }
        | FetchError::Cache { .. } => ExitCode::Invalid,
    }
}
