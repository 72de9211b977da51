//! The documents beside an artifact: what is in it, and what it was made of.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::build_spec::Output;
use common::manifest::Manifest;

use super::output::{self, Staged};
use super::{BuildError, Settings};
use crate::sbom::{self, Sbom};
use crate::tree::Tree;
use crate::ui::Ui;
use crate::{plan::Plan, provenance};

/// What a document is, for people, by what is appended to the artifact's name.
const DOCUMENTS: [(&str, &str); 2] = [
    (sbom::SUFFIX, "its bill of materials"),
    (provenance::SUFFIX, "its provenance"),
];

/// Where the documents of the artifact at `artifact` go.
pub(super) fn paths(artifact: &Path) -> impl Iterator<Item = PathBuf> {
    DOCUMENTS
        .into_iter()
        .map(|(suffix, _)| beside(artifact, suffix))
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
    settings: &Settings,
) -> Result<Sbom, BuildError> {
    let name = artifact.file_name().unwrap_or_default().to_string_lossy();
    let subject = sbom::Subject {
        name: manifest.map_or(&*name, |manifest| manifest.name.as_str()),
        version: manifest.map(|manifest| manifest.version.as_str()),
        digest: None,
        timestamp_s: settings.source_date_epoch_s,
    };
    Ok(sbom::compose(tree, &subject)?)
}

/// Writes both documents beside `artifact`, under names that are not theirs yet.
pub(super) fn stage(
    artifact: &Path,
    digest: common::digest::Digest,
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
