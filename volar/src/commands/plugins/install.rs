//! `volar plugins install`: reads and checks a manifest, then has volantd fetch and verify its artifact.

use crate::cli::InstallArgs;
use crate::commands::download::watched;
use crate::commands::{CommandError, Context, Doing as _};
use crate::manifest_source::{Daemon, load};
use crate::output::installed_line;

pub(in crate::commands) async fn run(
    context: &Context,
    args: &InstallArgs,
) -> Result<(), CommandError> {
    let daemon = if context.settings.endpoint.is_local() {
        Daemon::Local
    } else {
        Daemon::Remote
    };
    let manifest = load(args.source(), daemon).await?;
    let client = context.client()?;
    let mut progress = context.ui.progress(manifest.name.as_str());
    progress.phase(&format!(
        "volantd fetches and verifies {}",
        manifest.artifact().url
    ));
    let call = client.install_plugin(&manifest, args.timeout);
    let installed = watched(&client, &manifest.name, &mut progress, call).await;
    progress.finish();
    let installed = installed.doing(|| format!("install plugin `{}`", manifest.name))?;
    let plugin = &installed.value;
    context
        .output
        .result(&installed.json, &[plugin.name.as_str()], || {
            installed_line(plugin)
        })?;
    if !plugin.artifact.pinned {
        context.ui.hint(&format!(
            "The artifact is unpinned: the manifest names no checksum. Pin it with \"checksum\": \"{}\" in `{}`",
            plugin.artifact.digest, plugin.artifact.kind
        ));
    }
    if !plugin.enabled {
        context.ui.hint(&format!(
            "It is disabled, as its manifest says: `volar plugins enable {}` lets VMs be created from it",
            plugin.name
        ));
    }
    Ok(())
}
