//! `fledge build`: reads a build spec, gathers what it names, assembles, checks and packs. Nothing is left behind where a step fails.

mod arguments;
mod budget;
mod error;
mod gather;
mod inputs;
mod mapped;
mod output;
mod places;
mod sidecars;
mod warnings;

use std::path::PathBuf;

use common::build_spec::Mark;
use common::error_chain::Chain;
use common::manifest::Manifest;
use tokio::sync::watch;

use crate::commands::staged::Staged;
use crate::oci::Source;
use crate::plan::{self, PlannedBase};
use crate::sbom::Sbom;
use crate::tree::{Kind, Tree};
use crate::ui::Ui;
use crate::{assemble, manifest_out, workload};

pub use arguments::{BuildArgs, Settings, What};
pub use budget::Limits;
pub use error::BuildError;
use inputs::Input;
use output::Artifact;
use places::Places;

/// Programs that would not start are named up to this many: images of whole distributions can have hundreds.
const MAX_LOADER_WARNINGS: usize = 5;

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The artifact.
    pub artifact: PathBuf,
    /// Its manifest, where the plugin has a name.
    pub manifest: Option<PathBuf>,
}

/// Builds. `interrupted` becomes true when the user presses Ctrl-C.
///
/// # Errors
/// The first step that fails; then no file is written.
pub async fn run(
    settings: &Settings,
    ui: &Ui,
    interrupted: watch::Receiver<bool>,
) -> Result<Built, BuildError> {
    let input = Input::read(settings)?;
    let plan = planned(&input, settings)?;
    let path = settings
        .output
        .clone()
        .unwrap_or_else(|| plan::artifact_name(&plan, input.folder.as_deref()).into());
    // Before the work: what is wrong with the manifest does not depend on the artifact.
    if let (Some(template), None) = (&input.template, &plan.base) {
        template.compose(&path, None, &plan.output)?;
    }
    let manifest_path = manifest_out::path_beside(&path);
    warnings::of_name(&path, &plan.output, ui);
    let places = Places::check(&path, &plan)?;
    places.spare(input.read_from(settings))?;
    let mapped = mapped::files(&plan, &input)?;
    places.spare(mapped.iter().map(PathBuf::as_path))?;
    let gathered = gather::gather(&plan, &mapped, settings, ui, &interrupted).await?;
    places.spare(gathered.files.host_files())?;
    let image = plan.base.as_ref().map(PlannedBase::name);
    let template = input.over(gathered.defaults.as_ref(), image);
    let manifest = template
        .as_ref()
        .map(|template| template.compose(&path, None, &plan.output))
        .transpose()?;
    let mut tree = assemble::assemble(&plan, gathered.files)?;
    warnings::drop_attributes(&mut tree, &plan.output, ui);
    set_times(&mut tree, settings.source_date_epoch_s);
    check(&tree, manifest.as_ref(), ui)?;

    let (artifact, sbom) = std::thread::scope(|scope| {
        let list = || sidecars::list(&tree, manifest.as_ref(), &path, (settings, &interrupted));
        let list = scope.spawn(list);
        let artifact = output::pack(&tree, &plan, settings, &path, (ui, &interrupted));
        let sbom = list
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<(Artifact, Sbom), BuildError>((artifact?, sbom?))
    })?;
    let budget = budget::judge(&path, &tree, &plan.output, &settings.limits)?;
    let mut beside = Vec::new();
    if let Some(template) = &template {
        let manifest = template.compose(&path, Some(artifact.digest), &plan.output)?;
        let text = manifest.to_json_pretty();
        beside.push(output::stage(text.as_bytes(), &manifest_path)?);
    }
    let mut inputs = input.files;
    inputs.extend(gathered.inputs);
    let context = (&plan, settings, ui);
    beside.extend(sidecars::stage(
        &path,
        artifact.digest,
        &sbom,
        inputs,
        context,
    )?);

    let files = count_files(&tree);
    publish(artifact, beside, files, (ui, &interrupted))?;
    for line in &budget {
        ui.result(line);
    }
    if template.is_none() {
        ui.note("no manifest was written: name the plugin in a `manifest.toml`, or give a manifest with --manifest");
    }
    Ok(Built {
        artifact: path,
        manifest: template.map(|_| manifest_path),
    })
}

/// Moves the artifact and what goes beside it to their places, and removes what an earlier artifact left there.
fn publish(
    artifact: Artifact,
    beside: Vec<Staged>,
    files: usize,
    (ui, interrupted): (&Ui, &watch::Receiver<bool>),
) -> Result<(), BuildError> {
    let stale = sidecars::stale(&artifact, &beside, interrupted)?;
    let Artifact {
        file,
        digest,
        size_bytes,
    } = artifact;
    let path = output::publish(file)?;
    ui.result(&format!(
        "{}: {files} files, {size_bytes} bytes, {digest}",
        path.display()
    ));
    for staged in beside {
        let path = output::publish(staged)?;
        ui.result(&format!("{}: {}", path.display(), sidecars::what(&path)));
    }
    sidecars::remove(stale, ui)
}

/// What is to be done, all of it within what the build may use.
fn planned(input: &Input, settings: &Settings) -> Result<plan::Plan, BuildError> {
    let plan = plan::plan(&input.spec, &settings.overrides, &input.directory)?;
    if let Some(PlannedBase::Image {
        reference,
        directory,
    }) = &plan.base
    {
        Source::parse(reference, directory).map_err(|error| {
            input.refuse("/source/image", Mark::Value, Chain(&error).to_string())
        })?;
    }
    if let Some(confinement) = &settings.confine_to {
        confinement.check(&plan)?;
    }
    Ok(plan)
}

/// What a build brings gets one time; what an image brings keeps its own, up to the one that is asked for.
fn set_times(tree: &mut Tree, source_date_epoch_s: Option<u32>) {
    tree.set_own_times(i64::from(source_date_epoch_s.unwrap_or(0)));
    if let Some(latest_s) = source_date_epoch_s {
        tree.clamp_times(i64::from(latest_s));
    }
}

/// Refuses an image whose workload would not start, and warns of other programs that would not.
fn check(tree: &Tree, manifest: Option<&Manifest>, ui: &Ui) -> Result<(), BuildError> {
    if let Some(manifest) = manifest {
        workload::check(tree, &manifest.workload)?;
    }
    let without = workload::without_loader(tree)?;
    for (path, interpreter) in without.iter().take(MAX_LOADER_WARNINGS) {
        ui.warn(&format!(
            "`{path}` is dynamically linked and will not start: its loader `{interpreter}` is not in the image"
        ));
    }
    if let Some(more) = without
        .len()
        .checked_sub(MAX_LOADER_WARNINGS)
        .filter(|more| *more > 0)
    {
        ui.warn(&format!(
            "{more} more programs have no loader in the image; `fledge inspect` names them"
        ));
    }
    Ok(())
}

fn count_files(tree: &Tree) -> usize {
    tree.iter()
        .filter(|item| matches!(item.node.kind, Kind::File(_)))
        .count()
}
