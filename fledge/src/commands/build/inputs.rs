//! Reads what the user wrote: the build spec and the manifest's template.

use std::path::{Path, PathBuf};

use common::build_spec::{
    self, AgentSource, Base, BuildSpec, BuildSpecError, Dockerfile, Filesystem, FilesystemKind,
    Finding, Init, MAX_SPEC_BYTES, ManifestTemplate, Mark, Output, ReleaseVersion,
};
use common::digest::Digest;
use common::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestError};
use serde_json::Value;

use super::BuildError;
use super::arguments::{Settings, What};
use crate::commands::small_file::{self, FileError};
use crate::manifest_out;
use crate::provenance::{self, Role};

/// The template that is used where there is one and none is named.
const DEFAULT_TEMPLATE: &str = "manifest.toml";

/// Where a manifest says what to run.
const ENTRYPOINT: &str = "/workload/entrypoint";

/// What the user wrote.
#[derive(Debug)]
pub(super) struct Input {
    /// What goes into the artifact.
    pub(super) spec: BuildSpec,
    /// Where relative paths in the spec are taken from.
    pub(super) directory: PathBuf,
    /// What the plugin is, where it was written down.
    pub(super) template: Option<Template>,
    /// The name of the folder that a Dockerfile given by itself is built in.
    pub(super) folder: Option<String>,
    /// The files that were read, for the provenance.
    pub(super) files: Vec<provenance::Input>,
    /// Path and text of the build spec, if it was read.
    written: Option<(PathBuf, String)>,
}

impl Input {
    /// Reads and checks all of it.
    pub(super) fn read(settings: &Settings) -> Result<Self, BuildError> {
        let mut files = Vec::new();
        let mut written = None;
        let (spec, directory, beside, folder) = match &settings.what {
            What::Spec(path) => {
                confine(settings, path)?;
                let text = small_file::read(path, "build spec", limit_bytes(MAX_SPEC_BYTES))?;
                let digest = Digest::of(text.as_bytes());
                files.push(provenance::Input::file(Role::BuildSpec, path, digest));
                let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
                let spec = BuildSpec::parse(&text).map_err(|source| refused(path, source))?;
                written = Some((path.clone(), text));
                (spec, directory.clone(), directory, None)
            }
            What::Dockerfile(dockerfile) => {
                let context = context_of(dockerfile);
                let folder = context.canonicalize().ok();
                let folder = folder.as_deref().and_then(Path::file_name);
                let folder = folder.map(|name| name.to_string_lossy().into_owned());
                (of_dockerfile(dockerfile), PathBuf::new(), context, folder)
            }
        };
        let template = Template::find(settings, &beside, spec.base.is_some())?;
        if let Some(template) = &template {
            let (role, digest) = (Role::ManifestTemplate, template.digest);
            files.push(provenance::Input::file(role, &template.path, digest));
        }
        Ok(Self {
            spec,
            directory,
            template,
            folder,
            files,
            written,
        })
    }

    /// The files that it was read from, a template that nobody named among them.
    pub(super) fn read_from<'a>(
        &'a self,
        settings: &'a Settings,
    ) -> impl Iterator<Item = &'a Path> {
        let spec = match &settings.what {
            What::Spec(path) => path.as_path(),
            What::Dockerfile(dockerfile) => Path::new(&dockerfile.path),
        };
        let template = self
            .template
            .as_ref()
            .map(|template| template.path.as_path());
        [spec].into_iter().chain(template)
    }

    /// The error that says that what `place` leads to in the build spec is wrong.
    pub(super) fn refuse(&self, place: &str, mark: Mark, sentence: String) -> BuildError {
        let (path, text) = match &self.written {
            Some((path, text)) => (path.as_path(), text.as_str()),
            None => (Path::new("Dockerfile"), ""),
        };
        let finding = Finding {
            pointer: place.to_owned(),
            mark,
            sentence,
        };
        let problems = build_spec::locate(text, vec![finding]);
        refused(path, BuildSpecError::Invalid(problems))
    }

    /// The template over what the container image `image` says of itself; one of them is enough.
    pub(super) fn over(&self, defaults: Option<&Value>, image: Option<String>) -> Option<Template> {
        let is_silent = defaults.is_some_and(|defaults| {
            let entrypoint = defaults.pointer(ENTRYPOINT).and_then(Value::as_array);
            entrypoint.is_none_or(Vec::is_empty)
        });
        let silent = image.clone().filter(|_| is_silent);
        match (&self.template, defaults) {
            (Some(template), Some(defaults)) => Some(Template {
                members: template.members.over(defaults),
                silent,
                ..template.clone()
            }),
            (Some(template), None) => Some(template.clone()),
            (None, Some(defaults)) => {
                let json = defaults.to_string();
                let members = defaults.as_object().cloned().unwrap_or_default();
                Some(Template {
                    path: PathBuf::new(),
                    image,
                    silent,
                    digest: Digest::of(json.as_bytes()),
                    members: ManifestTemplate::from_members(members),
                })
            }
            (None, None) => None,
        }
    }
}

/// A template and where it was read from.
#[derive(Debug, Clone)]
pub(super) struct Template {
    path: PathBuf,
    /// The image that says all of it; then there is no path.
    image: Option<String>,
    /// The image that does not say what to run.
    silent: Option<String>,
    digest: Digest,
    members: ManifestTemplate,
}

impl Template {
    /// Reads the template: the one that is named, else the default one in `directory`, if it is there. What an image says need not
    /// be in it.
    fn find(
        settings: &Settings,
        directory: &Path,
        has_image: bool,
    ) -> Result<Option<Self>, BuildError> {
        let named = settings.manifest.as_deref();
        let path = named.map_or_else(|| directory.join(DEFAULT_TEMPLATE), Path::to_path_buf);
        confine(settings, &path)?;
        let limit_bytes = limit_bytes(MAX_SPEC_BYTES.max(MAX_MANIFEST_BYTES));
        let text = match small_file::read(&path, "manifest", limit_bytes) {
            Ok(text) => text,
            Err(FileError::NotFound { .. }) if named.is_none() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let template = match (is_json, has_image) {
            (true, true) => ManifestTemplate::from_json(text.as_bytes()),
            (true, false) => ManifestTemplate::from_complete_json(text.as_bytes()),
            (false, true) => ManifestTemplate::from_toml(&text),
            (false, false) => ManifestTemplate::from_complete_toml(&text),
        };
        match template {
            Ok(members) => Ok(Some(Self {
                digest: Digest::of(text.as_bytes()),
                image: None,
                silent: None,
                path,
                members,
            })),
            Err(source) => Err(BuildError::Template {
                source: source.of_file(&path.display().to_string()),
                path,
            }),
        }
    }

    /// The manifest of the artifact at `path`.
    pub(super) fn compose(
        &self,
        path: &Path,
        checksum: Option<Digest>,
        output: &Output,
    ) -> Result<Manifest, BuildError> {
        manifest_out::compose(&self.members, path, checksum, output)
            .map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &ManifestError) -> BuildError {
        if let (Some(image), [only]) = (&self.silent, error.problems.as_slice())
            && only.pointer == ENTRYPOINT
        {
            let image = image.clone();
            return BuildError::NoProgram { image };
        }
        let problems = self.members.explain(error);
        match self.image.clone() {
            Some(image) => BuildError::ImageManifest {
                image,
                source: problems,
            },
            None => BuildError::Manifest {
                path: self.path.clone(),
                source: problems.of_file(self.path.display().to_string()),
            },
        }
    }
}

/// The directory that a Dockerfile's `COPY` sees.
fn context_of(dockerfile: &Dockerfile) -> PathBuf {
    let context = dockerfile.context.as_ref().map(PathBuf::from);
    let parent = || Path::new(&dockerfile.path).parent().map(Path::to_path_buf);
    match context.or_else(parent) {
        Some(directory) if directory != Path::new("") => directory,
        _ => PathBuf::from("."),
    }
}

/// The spec that a Dockerfile given by itself stands for.
fn of_dockerfile(dockerfile: &Dockerfile) -> BuildSpec {
    BuildSpec {
        init: Init::Agent(AgentSource::Release {
            version: ReleaseVersion::Latest,
            checksum: None,
        }),
        base: Some(Base::Dockerfile(dockerfile.clone())),
        busybox: None,
        mappings: std::collections::BTreeMap::new(),
        fetches: Vec::new(),
        output: Output::Rootfs(Filesystem {
            kind: FilesystemKind::default(),
            writable_mb: None,
            ephemeral: false,
        }),
    }
}

/// Refuses a file that may not be read.
fn confine(settings: &Settings, path: &Path) -> Result<(), BuildError> {
    match &settings.confine_to {
        Some(confinement) => Ok(confinement.check_file(path)?),
        None => Ok(()),
    }
}

fn refused(path: &Path, source: BuildSpecError) -> BuildError {
    BuildError::Spec {
        path: path.to_path_buf(),
        source: source.of_file(&path.display().to_string()),
    }
}

fn limit_bytes(limit: usize) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}
