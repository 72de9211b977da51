//! Images that docker or podman have on this machine: asked for by their own commands, which write an archive.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use oci_client::Reference;
use tokio::sync::watch;

use super::command::{CommandError, Output, Programs, Run};

/// How long an engine may take to say whether it has an image. It is on this machine.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// docker.
    Docker,
    /// podman.
    Podman,
}

impl Engine {
    /// Its command.
    pub fn command(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// An image that an engine does not give.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The engine is not installed.
    #[error("`{command}` is not installed")]
    NoEngine {
        /// Its command.
        command: &'static str,
    },
    /// It does not have the image.
    #[error("`{command}` has no image `{image}` on this machine")]
    NoImage {
        /// Its command.
        command: &'static str,
        /// The image.
        image: String,
        /// What it says.
        #[source]
        source: Option<CommandError>,
    },
    /// It does not write it.
    #[error("`{command}` does not give the image `{image}`")]
    Save {
        /// Its command.
        command: &'static str,
        /// The image.
        image: String,
        /// Why.
        #[source]
        source: CommandError,
    },
}

/// The engines of this machine.
#[derive(Debug)]
pub(super) struct Engines<'a> {
    /// Where they are looked for.
    pub programs: &'a Programs,
    /// Becomes true when the user presses Ctrl-C.
    pub interrupted: &'a watch::Receiver<bool>,
}

impl Engines<'_> {
    /// The first engine that has the image. One that does not work has none.
    ///
    /// # Errors
    /// Where the user presses Ctrl-C.
    pub(super) async fn who_has(&self, image: &Reference) -> Result<Option<Engine>, LocalError> {
        for engine in [Engine::Docker, Engine::Podman] {
            match self.look(engine, image).await {
                Ok(()) => return Ok(Some(engine)),
                Err(LocalError::NoImage {
                    source: Some(source @ CommandError::Interrupted),
                    ..
                }) => {
                    return Err(failed(engine, image, source));
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Whether `engine` has the image, and where the image is pinned, that very one.
    ///
    /// # Errors
    /// Where it does not.
    pub(super) async fn look(&self, engine: Engine, image: &Reference) -> Result<(), LocalError> {
        let none = |source| LocalError::NoImage {
            command: engine.command(),
            image: image.to_string(),
            source,
        };
        let arguments = ["image", "inspect", "--format", "{{json .RepoDigests}}"];
        let answer = self.run(engine, &arguments, image, Output::Keep).await;
        let answer = answer?.map_err(|error| none(Some(error)))?;
        let digests: Option<Vec<String>> = serde_json::from_slice(&answer).ok().flatten();
        let is_pinned = |pin: &str| {
            let end = format!("@{pin}");
            digests
                .iter()
                .flatten()
                .any(|digest| digest.ends_with(&end))
        };
        match image.digest() {
            Some(pin) if !is_pinned(pin) => Err(none(None)),
            _ => Ok(()),
        }
    }

    /// Writes the image to `file`, as `docker save` does.
    ///
    /// # Errors
    /// Where the engine does not.
    pub(super) async fn save(
        &self,
        engine: Engine,
        image: &Reference,
        file: File,
    ) -> Result<(), LocalError> {
        let saved = self.run(engine, &["save"], image, Output::File(file)).await;
        match saved? {
            Ok(_) => Ok(()),
            Err(source) => Err(failed(engine, image, source)),
        }
    }

    async fn run(
        &self,
        engine: Engine,
        arguments: &[&str],
        image: &Reference,
        output: Output,
    ) -> Result<Result<Vec<u8>, CommandError>, LocalError> {
        let command = engine.command();
        let Some(program) = self.programs.find(command) else {
            return Err(LocalError::NoEngine { command });
        };
        let mut arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        // A reference never begins with `-`.
        arguments.push(image.to_string().into());
        let is_question = matches!(output, Output::Keep);
        let limit = is_question.then_some(INSPECT_TIMEOUT);
        Ok(self.start(&program, arguments, output, limit).await)
    }

    async fn start(
        &self,
        program: &Path,
        arguments: Vec<OsString>,
        output: Output,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, CommandError> {
        let run = Run {
            program,
            arguments,
            variables: Vec::new(),
            input: Vec::new(),
            output,
            limit,
            on_line: &|_| {},
            interrupted: self.interrupted.clone(),
        };
        run.finish().await
    }
}

fn failed(engine: Engine, image: &Reference, source: CommandError) -> LocalError {
    LocalError::Save {
        command: engine.command(),
        image: image.to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::tests::{never, script};
    use super::*;

    #[tokio::test]
    async fn the_engine_that_has_the_image_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "1".repeat(64));
        script(
            directory.path(),
            "docker",
            "echo cannot connect >&2; exit 1",
        );
        let podman = format!(
            r#"case "$*" in
            "image inspect --format {{{{json .RepoDigests}}}} docker.io/library/mine:latest") echo '["mine@{digest}"]' ;;
            "image inspect"*"library/mine@"*) echo '["mine@{digest}"]' ;;
            "save docker.io/library/mine:latest") echo archive ;;
            *) echo "no such image" >&2; exit 125 ;;
            esac"#
        );
        script(directory.path(), "podman", &podman);
        let programs = Programs::in_path(Some(directory.path().as_os_str()));
        let interrupted = never();
        let engines = Engines {
            programs: &programs,
            interrupted: &interrupted,
        };
        let image = |text: &str| -> Reference { text.parse().unwrap() };
        let has = async |text: &str| engines.who_has(&image(text)).await.unwrap();
        assert_eq!(has("mine").await, Some(Engine::Podman));
        assert_eq!(has("other").await, None);
        assert_eq!(has(&format!("mine@{digest}")).await, Some(Engine::Podman));
        assert_eq!(has(&format!("mine@sha256:{}", "2".repeat(64))).await, None);
        let path = directory.path().join("saved");
        let file = fs_err::File::create(&path).unwrap().into_file();
        engines
            .save(Engine::Podman, &image("mine"), file)
            .await
            .unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"archive\n");
        let error = engines
            .look(Engine::Docker, &image("mine"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().starts_with("`docker` has no image"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn without_an_engine_there_is_nothing() {
        let (programs, interrupted) = (Programs::default(), never());
        let engines = Engines {
            programs: &programs,
            interrupted: &interrupted,
        };
        let image: Reference = "x".parse().unwrap();
        assert_eq!(engines.who_has(&image).await.unwrap(), None);
        let error = engines.look(Engine::Podman, &image).await.unwrap_err();
        assert_eq!(error.to_string(), "`podman` is not installed");
    }
}
