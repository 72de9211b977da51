//! The documents beside an artifact: what is in it, and what it was made of.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use common::build_spec::Output;
use common::digest::Digest;
use common::manifest::Manifest;
use tokio::sync::watch;

use super::output::{self, Artifact};
use super::{BuildError, Settings};
use crate::commands::staged::Staged;
use crate::manifest_out;
use crate::sbom::{self, Sbom, SbomError};
use crate::signature;
use crate::tree::Tree;
use crate::ui::Ui;
use crate::{plan::Plan, provenance};

/// What a document is, for people, by what is appended to the artifact's name.
const DOCUMENTS: [(&str, &str); 2] = [
    (sbom::SUFFIX, "its bill of materials"),
    (provenance::SUFFIX, "its provenance"),
];

/// Where the documents of the artifact at `artifact` go, and its signature.
pub(super) fn paths(artifact: &Path) -> impl Iterator<Item = PathBuf> {
    DOCUMENTS
        .into_iter()
        .map(|(suffix, _)| beside(artifact, suffix))
        .chain([signature::path_beside(artifact)])
}

/// Whether what lies at `artifact` is an artifact of ours: then its provenance is beside it.
pub(super) fn is_ours(artifact: &Path) -> bool {
    beside(artifact, provenance::SUFFIX).is_file()
}

/// What lies beside the place of `artifact` and would be wrong about it: all that is neither in `written` nor of the same bytes.
///
/// # Errors
/// Where the file in its place cannot be read.
pub(super) fn stale(
    artifact: &Artifact,
    written: &[Staged],
    interrupted: &watch::Receiver<bool>,
) -> Result<Vec<PathBuf>, BuildError> {
    let place = artifact.file.path().to_path_buf();
    let is_there = |path: &PathBuf| {
        let metadata = fs_err::symlink_metadata(path);
        metadata.is_ok_and(|metadata| metadata.is_file())
    };
    let found: Vec<_> = paths(&place)
        .chain([manifest_out::path_beside(&place)])
        .filter(|path| written.iter().all(|staged| staged.path() != path))
        .filter(is_there)
        .collect();
    if found.is_empty() {
        return Ok(found);
    }
    let earlier = || -> io::Result<Option<Digest>> {
        let mut file = fs_err::File::open(&place)?;
        if file.metadata()?.len() != artifact.size_bytes {
            return Ok(None);
        }
        output::digest_of(&mut file, interrupted).map(Some)
    };
    match earlier() {
        Ok(Some(digest)) if digest == artifact.digest => Ok(Vec::new()),
        Err(_) if *interrupted.borrow() => Err(BuildError::Interrupted),
        // Whatever they were of, it is not this artifact.
        Ok(_) | Err(_) => Ok(found),
    }
}

/// Removes what is stale, and says so.
pub(super) fn remove(stale: Vec<PathBuf>, ui: &Ui) -> Result<(), BuildError> {
    for path in stale {
        if let Err(source) = fs_err::remove_file(&path) {
            return Err(BuildError::Stale { path, source });
        }
        ui.result(&format!(
            "{}: removed, as it was of an earlier artifact",
            path.display()
        ));
    }
    Ok(())
}

/// What the file at `path` beside an artifact is.
pub(super) fn what(path: &Path) -> &'static str {
    let name = path.to_string_lossy();
    let known = DOCUMENTS
        .into_iter()
        .find(|(suffix, _)| name.ends_with(suffix));
    known.map_or("its manifest", |(_, what)| what)
}

/// Lists what is in `tree`. The artifact's digest is not in it: it is composed while the artifact is packed.
pub(super) fn list(
    tree: &Tree,
    manifest: Option<&Manifest>,
    artifact: &Path,
    (settings, interrupted): (&Settings, &watch::Receiver<bool>),
) -> Result<Sbom, BuildError> {
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let subject = sbom::Subject {
        name: manifest.map_or(&*name, |manifest| manifest.name.as_str()),
        version: manifest.map(|manifest| manifest.version.as_str()),
        digest: None,
        timestamp_s: settings.source_date_epoch_s,
    };
    sbom::compose(tree, &subject, &|| *interrupted.borrow()).map_err(|error| match error {
        SbomError::Interrupted => BuildError::Interrupted,
        error => error.into(),
    })
}

/// Writes both documents beside `artifact`, under names that are not theirs yet.
pub(super) fn stage(
    artifact: &Path,
    digest: Digest,
    sbom: &Sbom,
    inputs: Vec<provenance::Input>,
    (plan, settings, ui): (&Plan, &Settings, &Ui),
) -> Result<Vec<Staged>, BuildError> {
    for warning in &sbom.warnings {
        ui.warn(warning);
    }
    let inputs = provenance::Inputs {
        strategy: match plan.output {
            Output::Initramfs { .. } => "initramfs",
            Output::Rootfs(_) => "oci_rootfs",
        },
        format: plan.output.format(),
        source_date_epoch_s: settings.source_date_epoch_s.unwrap_or(0),
        inputs,
    };
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let subject = provenance::Subject {
        name: &name,
        digest,
    };
    let provenance = provenance::compose(&inputs, &subject)?;
    let sbom_path = beside(artifact, sbom::SUFFIX);
    let provenance_path = beside(artifact, provenance::SUFFIX);
    Ok(vec![
        output::stage(&sbom.json, &sbom_path)?,
        output::stage(&provenance, &provenance_path)?,
    ])
}

fn beside(artifact: &Path, suffix: &str) -> PathBuf {
    let mut name = artifact.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    artifact.with_file_name(name)
}
