//! Reads what the user wrote: the build spec and the manifest's template.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::build_spec::{
    AgentSource, Base, BuildSpec, Dockerfile, Filesystem, FilesystemKind, Init, MAX_SPEC_BYTES,
    ManifestTemplate, Output, ReleaseVersion,
};
use common::digest::Digest;
use common::manifest::{MAX_MANIFEST_BYTES, Manifest};
use serde_json::Value;

use super::BuildError;
use super::arguments::{Settings, What};
use crate::manifest_out;
use crate::provenance::{self, Role};

/// The template that is used where there is one and none is named.
const DEFAULT_TEMPLATE: &str = "manifest.toml";

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
}

impl Input {
    /// Reads and checks all of it.
    pub(super) fn read(settings: &Settings) -> Result<Self, BuildError> {
        let mut files = Vec::new();
        let (spec, directory, beside, folder) = match &settings.what {
            What::Spec(path) => {
                confine(settings, path)?;
                let text = spec_text(path)?;
                let digest = Digest::of(text.as_bytes());
                files.push(provenance::Input::file(Role::BuildSpec, path, digest));
                let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
                (spec(path, &text)?, directory.clone(), directory, None)
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
        })
    }

    /// The template over what a container image says of itself; one of them is enough.
    pub(super) fn over(&self, defaults: Option<&Value>) -> Option<Template> {
        match (&self.template, defaults) {
            (Some(template), Some(defaults)) => Some(Template {
                members: template.members.over(defaults),
                ..template.clone()
            }),
            (Some(template), None) => Some(template.clone()),
            (None, Some(defaults)) => {
                let json = defaults.to_string();
                let template = ManifestTemplate::from_json(json.as_bytes()).ok()?;
                Some(Template {
                    path: PathBuf::from("the container image"),
                    digest: Digest::of(json.as_bytes()),
                    members: template,
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
        let text = match read_text(&path, MAX_SPEC_BYTES.max(MAX_MANIFEST_BYTES)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if named.is_some() {
                    Err(BuildError::NoManifest { path })
                } else {
                    Ok(None)
                };
            }
            Err(source) => return Err(BuildError::ReadInput { path, source }),
        };
        let is_json = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let template = match (is_json, has_image) {
            (true, _) => ManifestTemplate::from_json(text.as_bytes()),
            (false, true) => ManifestTemplate::from_toml(&text),
            (false, false) => ManifestTemplate::from_complete_toml(&text),
        };
        match template {
            Ok(members) => Ok(Some(Self {
                digest: Digest::of(text.as_bytes()),
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
        manifest_out::compose(&self.members, path, checksum, output).map_err(|error| {
            BuildError::Manifest {
                path: self.path.clone(),
                source: self
                    .members
                    .explain(&error)
                    .of_file(self.path.display().to_string()),
            }
        })
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

fn spec_text(path: &Path) -> Result<String, BuildError> {
    read_text(path, MAX_SPEC_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BuildError::NoSpec {
            path: path.to_path_buf(),
        },
        _ => BuildError::ReadInput {
            path: path.to_path_buf(),
            source,
        },
    })
}

fn spec(path: &Path, text: &str) -> Result<BuildSpec, BuildError> {
    BuildSpec::parse(text).map_err(|source| BuildError::Spec {
        path: path.to_path_buf(),
        source: source.of_file(&path.display().to_string()),
    })
}

/// Reads at most one byte more than `limit_bytes`: whoever parses it says that it is too large.
fn read_text(path: &Path, limit_bytes: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    fs_err::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    String::from_utf8(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}
