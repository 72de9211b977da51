//! Builds a Dockerfile with the builder that the user has: docker, podman or buildah. What comes out is an archive of the image, which
//! is then an input like any other. Runs nothing of the Dockerfile itself.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;

use super::command::{CommandError, Output, Programs, Run};
use crate::cache::TEMPORARY_PREFIX;
use crate::ui::Ui;

/// How long a builder may take to say whether it works.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// What buildx says when its driver cannot write archives, which is the default one of docker's own storage.
const NO_EXPORTER: &str = "not supported for the docker driver";

/// What podman and buildah are asked for. Their other format, of OCI, has no place for a `HEALTHCHECK`, which they then drop.
const FORMAT: &str = "--format=docker";

/// A Dockerfile that is not built.
#[derive(Debug, thiserror::Error)]
pub enum DockerfileError {
    /// It does not exist.
    #[error("There is no Dockerfile at `{}`", path.display())]
    NotFound {
        /// Where it should be.
        path: PathBuf,
    },
    /// Its context does not exist.
    #[error("The context `{}` of the Dockerfile is not a directory", path.display())]
    NoContext {
        /// Where it should be.
        path: PathBuf,
    },
    /// A build argument that no builder takes.
    #[error("`{name}` is not the name of a build argument")]
    Argument {
        /// The name.
        name: String,
    },
    /// No builder is installed, or none works.
    #[error("A Dockerfile needs docker, podman or buildah to be built, and {problem}")]
    NoBuilder {
        /// What is there.
        problem: String,
    },
    /// Room for the result cannot be made.
    #[error("Cannot make room for the image in `{}`", directory.display())]
    Room {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The builder fails.
    #[error("The Dockerfile `{}` cannot be built", path.display())]
    Build {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: CommandError,
    },
}

/// What is to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: PathBuf,
    /// What it can copy from: a directory.
    pub context: PathBuf,
    /// The stage, if it is not the last.
    pub target: Option<String>,
    /// Values for its `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// The time of what the build makes, in seconds since 1970.
    pub time_s: u64,
}

/// A builder that works.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Builder {
    /// `docker buildx`, which writes archives itself where its driver can.
    Buildx(PathBuf),
    /// `docker build` or `podman build`, which have to be asked for what they built.
    Engine { program: PathBuf, is_docker: bool },
    /// `buildah bud`.
    Buildah(PathBuf),
}

/// Builds with what is found in `programs`; archives are made in `directory`.
#[derive(Debug)]
pub(super) struct Build<'a> {
    /// What to build.
    pub request: &'a Request,
    /// Where builders are looked for.
    pub programs: &'a Programs,
    /// Where there is room.
    pub directory: &'a Path,
    /// For what the builder says.
    pub ui: &'a Ui,
    /// Becomes true when the user presses Ctrl-C.
    pub interrupted: &'a watch::Receiver<bool>,
}

/// An image that was built.
#[derive(Debug)]
pub(super) struct Built {
    /// The archive of it.
    pub archive: PathBuf,
    /// Removes the archive.
    pub room: TempDir,
}

impl Build<'_> {
    /// Builds it.
    ///
    /// # Errors
    /// Where there is no builder, or it fails.
    pub(super) async fn run(&self) -> Result<Built, DockerfileError> {
        self.check()?;
        let builder = self.builder().await?;
        let make_room = || {
            fs_err::create_dir_all(self.directory)?;
            tempfile::Builder::new()
                .prefix(TEMPORARY_PREFIX)
                .tempdir_in(self.directory)
        };
        let room = make_room().map_err(|source| DockerfileError::Room {
            directory: self.directory.to_path_buf(),
            source,
        })?;
        let archive = room.path().join("image.tar");
        let built = self.build(&builder, &archive).await;
        built.map_err(|source| DockerfileError::Build {
            path: self.request.dockerfile.clone(),
            source,
        })?;
        Ok(Built { archive, room })
    }

    fn check(&self) -> Result<(), DockerfileError> {
        let path = &self.request.dockerfile;
        if !fs_err::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return Err(DockerfileError::NotFound { path: path.clone() });
        }
        let path = &self.request.context;
        if !fs_err::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Err(DockerfileError::NoContext { path: path.clone() });
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0', '\n']);
        match self.request.build_args.keys().find(|name| !is_name(name)) {
            Some(name) => Err(DockerfileError::Argument { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// The first builder that works, docker before podman before buildah.
    async fn builder(&self) -> Result<Builder, DockerfileError> {
        let mut broken = Vec::new();
        if let Some(program) = self.programs.find("docker") {
            // The client alone builds nothing.
            if self.works(&program, &["version"]).await {
                return Ok(if self.works(&program, &["buildx", "version"]).await {
                    Builder::Buildx(program)
                } else {
                    Builder::Engine {
                        program,
                        is_docker: true,
                    }
                });
            }
            broken.push("docker");
        }
        if let Some(program) = self.programs.find("podman") {
            if self.works(&program, &["info"]).await {
                return Ok(Builder::Engine {
                    program,
                    is_docker: false,
                });
            }
            broken.push("podman");
        }
        if let Some(program) = self.programs.find("buildah") {
            return Ok(Builder::Buildah(program));
        }
        let problem = if broken.is_empty() {
            "none of them is installed".to_owned()
        } else {
            format!("{} does not work on this machine", broken.join(" and "))
        };
        Err(DockerfileError::NoBuilder { problem })
    }

    async fn works(&self, program: &Path, arguments: &[&str]) -> bool {
        let arguments = arguments.iter().map(OsString::from).collect();
        let run = self.prepare(program, arguments, &|_| {});
        let run = Run {
            limit: Some(PROBE_TIMEOUT),
            ..run
        };
        run.finish().await.is_ok()
    }

    async fn build(&self, builder: &Builder, archive: &Path) -> Result<(), CommandError> {
        match builder {
            Builder::Buildx(program) => {
                let built = self.say(program, self.buildx(archive)).await;
                match built {
                    Err(CommandError::Failed { last_lines, .. })
                        if last_lines.contains(NO_EXPORTER) =>
                    {
                        self.build_and_save(program, archive, true).await
                    }
                    other => other,
                }
            }
            Builder::Engine { program, is_docker } => {
                self.build_and_save(program, archive, *is_docker).await
            }
            Builder::Buildah(program) => self.say(program, self.buildah(archive)).await,
        }
    }

    /// Builds in the engine's own storage, and asks it for the image by its ID.
    async fn build_and_save(
        &self,
        program: &Path,
        archive: &Path,
        is_docker: bool,
    ) -> Result<(), CommandError> {
        let failed = |source| CommandError::Start {
            program: program.display().to_string(),
            source,
        };
        let id_file = archive.with_extension("id");
        let mut arguments = words(&["build"]);
        arguments.push(joined("--iidfile=", &id_file));
        if !is_docker {
            arguments.extend(words(&[FORMAT]));
            arguments.push(format!("--timestamp={}", self.request.time_s).into());
        }
        arguments.extend(self.common());
        self.say(program, arguments).await?;
        let id = fs_err::read_to_string(&id_file).map_err(failed)?;
        let mut arguments = words(&["save"]);
        if !is_docker {
            arguments.push("--format=docker-archive".into());
        }
        arguments.push(joined("--output=", archive));
        // `sha256:` and hexadecimal digits; never an option.
        arguments.push(id.trim().trim_start_matches('-').into());
        self.say(program, arguments).await
    }

    fn buildx(&self, archive: &Path) -> Vec<OsString> {
        let mut arguments = words(&["buildx", "build", "--platform=linux/amd64"]);
        let output = "--output=type=oci,rewrite-timestamp=true,dest=";
        arguments.push(joined(output, archive));
        arguments.extend(self.common());
        arguments
    }

    fn buildah(&self, archive: &Path) -> Vec<OsString> {
        // `chroot` is the only isolation that works inside a container and without privileges.
        let mut arguments = words(&["bud", "--isolation=chroot", FORMAT]);
        arguments.push(format!("--timestamp={}", self.request.time_s).into());
        arguments.push(joined("--tag=docker-archive:", archive));
        arguments.extend(self.common());
        arguments
    }

    /// What all builders understand, the context last.
    fn common(&self) -> Vec<OsString> {
        let request = self.request;
        let mut arguments = vec![joined("--file=", &request.dockerfile)];
        if let Some(target) = &request.target {
            arguments.push(format!("--target={target}").into());
        }
        for (name, value) in &request.build_args {
            arguments.push(format!("--build-arg={name}={value}").into());
        }
        // Not to be taken for an option.
        let context = std::path::absolute(&request.context);
        arguments.push(context.unwrap_or_else(|_| request.context.clone()).into());
        arguments
    }

    async fn say(&self, program: &Path, arguments: Vec<OsString>) -> Result<(), CommandError> {
        let on_line = |line: &str| self.ui.detail(line);
        let run = self.prepare(program, arguments, &on_line);
        run.finish().await.map(drop)
    }

    fn prepare<'a>(
        &self,
        program: &'a Path,
        arguments: Vec<OsString>,
        on_line: &'a dyn Fn(&str),
    ) -> Run<'a> {
        Run {
            program,
            arguments,
            // BuildKit takes the time from here.
            variables: vec![("SOURCE_DATE_EPOCH", self.request.time_s.to_string())],
            input: Vec::new(),
            output: Output::Lines,
            limit: None,
            on_line,
            interrupted: self.interrupted.clone(),
        }
    }
}

fn words(list: &[&str]) -> Vec<OsString> {
    list.iter().map(OsString::from).collect()
}

fn joined(start: &str, path: &Path) -> OsString {
    let mut text = OsString::from(start);
    text.push(path);
    text
}
