//! `fledge build`: reads a build spec, fetches, assembles, checks and packs. Nothing is left behind where a step fails.

mod error;
mod inputs;
mod output;

use std::path::{Path, PathBuf};

use clap::Args;
use common::manifest::Manifest;
use tokio::sync::watch;

use crate::assemble::{self, Fetched};
use crate::cache;
use crate::fetch::{Cache, Client, Fetcher, RELEASES_URL, Shipped};
use crate::manifest_out;
use crate::plan::{self, FileSource, Overrides, Plan, PlannedInit};
use crate::tree::{Kind, Tree};
use crate::ui::Ui;
use crate::workload;

pub use error::BuildError;

const EXAMPLES: &str = "\
Examples:
  fledge build
      build ./fledge.toml into ./plugin.cpio.gz
  fledge build --config app/fledge.toml --manifest app/manifest/app.json --output out/app.cpio.gz
      build another directory's spec, with a manifest beside the artifact
  fledge build --agent ./kestrel --busybox /bin/busybox
      build without a network

The same inputs give the same bytes, whatever the directory, user, umask or number of processors.";

/// Flags of `fledge build`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BuildArgs {
    /// The build spec; relative paths in it are taken from its directory
    #[arg(short, long, value_name = "FILE", default_value = "fledge.toml")]
    config: PathBuf,
    /// Name, workload and health of the plugin: a manifest.toml, or a manifest in JSON [default: manifest.toml beside the spec, if it is there]
    #[arg(short, long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The artifact to write
    #[arg(short, long, value_name = "FILE", default_value = "plugin.cpio.gz")]
    output: PathBuf,
    /// Use this agent instead of the one that the spec names
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Use this busybox instead of the one that the spec names
    #[arg(long, value_name = "FILE")]
    busybox: Option<PathBuf>,
    /// Time of all files in the image, in seconds since 1970
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SOURCE_DATE_EPOCH",
        default_value_t = 0
    )]
    source_date_epoch: u32,
}

/// Flags and environment with all defaults filled in.
#[derive(Debug)]
pub struct Settings {
    config: PathBuf,
    manifest: Option<PathBuf>,
    output: PathBuf,
    overrides: Overrides,
    mtime: u32,
    cache: PathBuf,
}

impl BuildArgs {
    /// Fills in what depends on the environment, the only place that reads it.
    pub fn resolve(self) -> Settings {
        Settings {
            config: self.config,
            manifest: self.manifest,
            output: self.output,
            overrides: Overrides {
                agent: self.agent,
                busybox: self.busybox,
            },
            mtime: self.source_date_epoch,
            cache: cache::default_directory(),
        }
    }
}

/// Builds. `interrupted` becomes true when the user presses Ctrl-C.
///
/// # Errors
/// The first step that fails; then neither artifact nor manifest is written.
pub async fn run(
    settings: &Settings,
    ui: &Ui,
    interrupted: watch::Receiver<bool>,
) -> Result<(), BuildError> {
    let spec = inputs::spec(&settings.config)?;
    let directory = settings.config.parent().unwrap_or(Path::new(""));
    let template = inputs::template(settings.manifest.as_deref(), directory)?;
    // Before the work: what is wrong with the manifest does not depend on the artifact.
    let manifest = template
        .as_ref()
        .map(|template| template.compose(&settings.output, None))
        .transpose()?;
    output::check(&settings.output)?;
    output::check(&manifest_out::path_beside(&settings.output))?;
    let plan = plan::plan(&spec, &settings.overrides, directory)?;
    let fetched = fetch(&plan, settings, ui, interrupted.clone()).await?;
    let mut tree = assemble::assemble(&plan, &fetched)?;
    tree.set_own_times(i64::from(settings.mtime));
    check(&tree, manifest.as_ref(), ui)?;

    let artifact = output::pack(&tree, settings, ui, &interrupted)?;
    let manifest = template
        .map(|template| {
            let manifest = template.compose(&settings.output, Some(artifact.digest))?;
            output::stage_manifest(&manifest, &manifest_out::path_beside(&settings.output))
        })
        .transpose()?;
    let (size_bytes, digest) = (artifact.size_bytes, artifact.digest);
    artifact.file.publish()?;
    let output = settings.output.display();
    let files = count_files(&tree);
    ui.result(&format!(
        "{output}: {files} files, {size_bytes} bytes, {digest}"
    ));
    match manifest {
        Some(manifest) => {
            let path = manifest.publish()?;
            ui.result(&format!("{}: its manifest", path.display()));
        }
        None => ui.note("no manifest was written: name the plugin in a `manifest.toml`, or give a manifest with --manifest"),
    }
    Ok(())
}

async fn fetch(
    plan: &Plan,
    settings: &Settings,
    ui: &Ui,
    interrupted: watch::Receiver<bool>,
) -> Result<Fetched, BuildError> {
    let fetcher = Fetcher {
        client: Client::new(interrupted),
        cache: Cache::new(settings.cache.clone()),
        releases_url: RELEASES_URL.to_owned(),
        shipped: Shipped::beside(std::env::current_exe().ok().as_deref()),
        ui,
    };
    let agent = match &plan.init {
        PlannedInit::Agent(source) => Some(get(&fetcher, "kestrel", "--agent", source).await?),
        PlannedInit::Custom(_) | PlannedInit::None => None,
    };
    let busybox = match &plan.busybox {
        Some(source) => Some(get(&fetcher, "busybox", "--busybox", source).await?),
        None => None,
    };
    Ok(Fetched { agent, busybox })
}

async fn get(
    fetcher: &Fetcher<'_>,
    name: &'static str,
    flag: &'static str,
    source: &FileSource,
) -> Result<PathBuf, BuildError> {
    fetcher
        .fetch(name, source)
        .await
        .map_err(|source| BuildError::Fetch { name, flag, source })
}

/// Refuses an image whose workload would not start, and warns of other programs that would not.
fn check(tree: &Tree, manifest: Option<&Manifest>, ui: &Ui) -> Result<(), BuildError> {
    if let Some(manifest) = manifest {
        workload::check(tree, &manifest.workload)?;
    }
    for (path, interpreter) in workload::without_loader(tree)? {
        ui.warn(&format!(
            "`{path}` is dynamically linked and will not start: its loader `{interpreter}` is not in the image"
        ));
    }
    Ok(())
}

fn count_files(tree: &Tree) -> usize {
    tree.iter()
        .filter(|item| matches!(item.node.kind, Kind::File(_)))
        .count()
}
