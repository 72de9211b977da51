//! Where the artifact and what goes beside it may lie: at a path that can be written, over nothing that is read, and not among it.
//! Writes nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{BuildError, sidecars};
use crate::commands::staged::directory_of;
use crate::manifest_out;
use crate::oci::{Place, Source};
use crate::plan::{Plan, PlannedBase};

/// The paths of the artifact and of all that can go beside it.
#[derive(Debug)]
pub(super) struct Places(Vec<PathBuf>);

impl Places {
    /// Checks where `artifact` and its sidecars would go, as far as `plan` says what is read.
    ///
    /// # Errors
    /// Where one of them cannot be written, or would replace or join what the build reads.
    pub(super) fn check(artifact: &Path, plan: &Plan) -> Result<Self, BuildError> {
        let mut places = vec![artifact.to_path_buf(), manifest_out::path_beside(artifact)];
        places.extend(sidecars::paths(artifact));
        for place in &places {
            is_free(place)?;
        }
        let places = Self(places);
        places.spare(plan.host_files().iter().map(PathBuf::as_path))?;
        places.stay_out(plan)?;
        places.spare_context(artifact, plan)?;
        Ok(places)
    }

    /// Refuses to write over what is read: `inputs` are files of the host.
    ///
    /// # Errors
    /// Where one of them is the same file, under whatever name.
    pub(super) fn spare<'a>(
        &self,
        inputs: impl Iterator<Item = &'a Path>,
    ) -> Result<(), BuildError> {
        let identity = |path: &Path| {
            let metadata = fs_err::metadata(path).ok()?;
            Some((metadata.dev(), metadata.ino()))
        };
        let outputs = self.0.iter();
        let outputs: Vec<_> = outputs
            .filter_map(|path| Some((identity(path)?, path)))
            .collect();
        if outputs.is_empty() {
            return Ok(());
        }
        for input in inputs {
            let found = identity(input);
            if let Some((_, path)) = outputs.iter().find(|(output, _)| Some(*output) == found) {
                return Err(BuildError::OutputIsInput {
                    path: (*path).clone(),
                });
            }
        }
        Ok(())
    }

    /// Refuses to write into a directory that goes into the image as a whole.
    fn stay_out(&self, plan: &Plan) -> Result<(), BuildError> {
        let mappings = plan.mappings.iter().map(|mapping| mapping.host.clone());
        for directory in mappings.chain(layout(plan)).filter(|path| path.is_dir()) {
            if let Some(path) = self.0.iter().find(|path| lies_in(path, &directory)) {
                return Err(BuildError::OutputInInput {
                    path: path.clone(),
                    directory,
                });
            }
        }
        Ok(())
    }

    /// Refuses to replace a file of a Dockerfile's context, unless an earlier build wrote it: what the Dockerfile copies of the
    /// context only its builder knows.
    fn spare_context(&self, artifact: &Path, plan: &Plan) -> Result<(), BuildError> {
        let Some(PlannedBase::Dockerfile { context, .. }) = &plan.base else {
            return Ok(());
        };
        if sidecars::is_ours(artifact) {
            return Ok(());
        }
        let taken = |path: &&PathBuf| path.exists() && lies_in(path, context);
        match self.0.iter().find(taken) {
            Some(path) => Err(BuildError::OutputInContext { path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// Checks before the work that a file can lie at `path`.
fn is_free(path: &Path) -> Result<(), BuildError> {
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Err(BuildError::NoOutputDirectory {
            path: directory.to_path_buf(),
        });
    }
    if path.is_dir() || path.file_name().is_none() {
        return Err(BuildError::OutputIsDirectory {
            path: path.to_path_buf(),
        });
    }
    // A device or a link would be replaced by a file, which nobody means.
    match fs_err::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(BuildError::OutputIsNoFile {
            path: path.to_path_buf(),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The container image that the plan takes from a path of this machine.
fn layout(plan: &Plan) -> Option<PathBuf> {
    let Some(PlannedBase::Image {
        reference,
        directory,
    }) = &plan.base
    else {
        return None;
    };
    match Source::parse(reference, directory).ok()?.place {
        Place::Path { path, .. } => Some(path),
        Place::Registry(_) | Place::Anywhere(_) | Place::Docker(_) | Place::Podman(_) => None,
    }
}

/// Whether a file at `path` would lie in `directory`, at any depth. Links are followed.
fn lies_in(path: &Path, directory: &Path) -> bool {
    let real = |path: &Path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        path.canonicalize().ok()
    };
    match (real(directory_of(path)), real(directory)) {
        (Some(inner), Some(outer)) => inner.starts_with(outer),
        _ => false,
    }
}
