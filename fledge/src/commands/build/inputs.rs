//! Reads what the user wrote: the build spec and the manifest's template.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use common::build_spec::{BuildSpec, MAX_SPEC_BYTES, ManifestTemplate};
use common::digest::Digest;
use common::manifest::{MAX_MANIFEST_BYTES, Manifest};

use super::BuildError;
use crate::manifest_out;

/// The template that is used where there is one and none is named.
const DEFAULT_TEMPLATE: &str = "manifest.toml";

/// A template and where it was read from.
#[derive(Debug)]
pub(super) struct Template {
    path: PathBuf,
    template: ManifestTemplate,
}

impl Template {
    /// The manifest of the artifact at `output`.
    pub(super) fn compose(
        &self,
        output: &Path,
        checksum: Option<Digest>,
    ) -> Result<Manifest, BuildError> {
        manifest_out::compose(&self.template, output, checksum).map_err(|source| {
            BuildError::Manifest {
                path: self.path.clone(),
                source: self
                    .template
                    .explain(&source)
                    .of_file(self.path.display().to_string()),
            }
        })
    }
}

/// Reads and checks the build spec.
pub(super) fn spec(path: &Path) -> Result<BuildSpec, BuildError> {
    let text = read_text(path, MAX_SPEC_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BuildError::NoSpec {
            path: path.to_path_buf(),
        },
        _ => BuildError::ReadInput {
            path: path.to_path_buf(),
            source,
        },
    })?;
    BuildSpec::parse(&text).map_err(|source| BuildError::Spec {
        path: path.to_path_buf(),
        source: source.of_file(&path.display().to_string()),
    })
}

/// Reads the template: the one that is named, else the default one beside the spec, if it is there.
pub(super) fn template(
    named: Option<&Path>,
    directory: &Path,
) -> Result<Option<Template>, BuildError> {
    let path = named.map_or_else(|| directory.join(DEFAULT_TEMPLATE), Path::to_path_buf);
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
    let template = if is_json {
        ManifestTemplate::from_json(text.as_bytes())
    } else {
        ManifestTemplate::from_toml(&text)
    };
    match template {
        Ok(template) => Ok(Some(Template { path, template })),
        Err(source) => Err(BuildError::Template {
            source: source.of_file(&path.display().to_string()),
            path,
        }),
    }
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
