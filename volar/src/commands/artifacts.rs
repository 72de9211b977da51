//! `volar artifacts …`.

use common::api::{PutArtifact, StoredArtifact};
use common::digest::Digest;
use common::name::{InvalidName, Name};
use jiff::Timestamp;

use super::download::watched;
use super::{CommandError, Context, Doing as _, confirmed, system};
use crate::cli::{AddArtifactArgs, ArtifactsCommand, RemoveArtifactArgs};
use crate::output::{artifact_details, artifact_table};

/// An artifact that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// None has this digest.
    #[error("There is no artifact `{0}`")]
    Unknown(String),
    /// Several begin with it.
    #[error("Several artifacts begin with `{0}`: write more of the digest")]
    Ambiguous(String),
    /// Neither a digest nor a plugin.
    #[error("Neither a digest nor a plugin")]
    Name(#[source] InvalidName),
    /// A path that cannot be made absolute.
    #[error("Cannot find the working directory")]
    WorkingDirectory(#[source] std::io::Error),
}

pub(super) async fn run(context: &Context, command: ArtifactsCommand) -> Result<(), CommandError> {
    match command {
        ArtifactsCommand::List => list(context).await,
        ArtifactsCommand::Show(args) => show(context, &args.digest).await,
        ArtifactsCommand::Add(args) => add(context, args).await,
        ArtifactsCommand::Remove(args) => remove(context, &args).await,
        ArtifactsCommand::Gc(args) => system::collect(context, args.dry_run).await,
    }
}

async fn list(context: &Context) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .all_artifacts()
        .await
        .doing(|| "list the artifacts".to_owned())?;
    let digests: Vec<String> = answer
        .value
        .iter()
        .map(|row| row.digest.to_string())
        .collect();
    let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
    let output = context.output;
    Ok(output.result(&answer.json, &digests, || {
        artifact_table(&answer.value, output.is_wide(), Timestamp::now())
    })?)
}

async fn show(context: &Context, digest: &str) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .all_artifacts()
        .await
        .doing(|| format!("show artifact `{digest}`"))?;
    let found = of_digest(&answer.value, digest)?;
    let json = serde_json::to_string(found).unwrap_or_default();
    let name = found.digest.to_string();
    Ok(context
        .output
        .result(&json, &[&name], || artifact_details(found))?)
}

/// The one artifact whose digest begins so, with or without its `sha256:`.
fn of_digest<'a>(
    artifacts: &'a [StoredArtifact],
    text: &str,
) -> Result<&'a StoredArtifact, ArtifactError> {
    let wanted = text.to_ascii_lowercase();
    let wanted = wanted.strip_prefix("sha256:").unwrap_or(&wanted);
    let mut found = artifacts.iter().filter(|row| {
        let digest = row.digest.to_string();
        digest.trim_start_matches("sha256:").starts_with(wanted)
    });
    let Some(first) = found.next() else {
        return Err(ArtifactError::Unknown(text.to_owned()));
    };
    if found.any(|row| row.digest != first.digest) {
        return Err(ArtifactError::Ambiguous(text.to_owned()));
    }
    Ok(first)
}

async fn add(context: &Context, args: AddArtifactArgs) -> Result<(), CommandError> {
    let is_url = args.source.contains("://");
    let source_url = if is_url {
        args.source
    } else {
        let path = std::path::absolute(&args.source).map_err(ArtifactError::WorkingDirectory)?;
        path.to_string_lossy().into_owned()
    };
    let artifact = PutArtifact {
        version: args.version,
        artifact_name: args.artifact,
        kind: args.kind,
        source_url,
        checksum: args
            .checksum
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        format: String::new(),
        local_path: String::new(),
        size_bytes: 0,
    };
    let client = context.client()?;
    let mut progress = context.ui.progress(args.plugin.as_str());
    progress.phase(&format!(
        "volantd fetches and verifies {}",
        artifact.source_url
    ));
    let call = client.add_artifact(&args.plugin, &artifact, args.timeout);
    let added = watched(&client, &args.plugin, &mut progress, call).await;
    progress.finish();
    let name = &artifact.artifact_name;
    let added = added.doing(|| format!("add artifact `{name}` to plugin `{}`", args.plugin))?;
    Ok(context.output.result(&added.json, &[name], || {
        format!(
            "Artifact {name} {} of plugin {} is stored",
            artifact.version, args.plugin
        )
    })?)
}

async fn remove(context: &Context, args: &RemoveArtifactArgs) -> Result<(), CommandError> {
    match chosen(context, args).await? {
        Chosen::Artifact(digest) => remove_one(context, &digest, args.yes).await,
        Chosen::Plugin(plugin) => let_go(context, &plugin, args).await,
    }
}

/// What a word stands for.
enum Chosen {
    Artifact(Digest),
    Plugin(Name),
}

/// A digest says so by `sha256:`, or has all its digits. Anything else may be a plugin as well as the beginning of a digest: then what is
/// there decides, and never by chance.
async fn chosen(context: &Context, args: &RemoveArtifactArgs) -> Result<Chosen, CommandError> {
    let word = args.what.as_str();
    if args.version.is_some() {
        return Ok(Chosen::Plugin(word.parse().map_err(ArtifactError::Name)?));
    }
    if let Ok(digest) = word.parse::<Digest>() {
        return Ok(Chosen::Artifact(digest));
    }
    let is_said = word.starts_with("sha256:");
    let plugin = word.parse::<Name>();
    let is_hex = word.chars().all(|c| c.is_ascii_hexdigit());
    if !is_said && !is_hex {
        return Ok(Chosen::Plugin(plugin.map_err(ArtifactError::Name)?));
    }
    let client = context.client()?;
    let action = || format!("find artifact `{word}`");
    if let (false, Ok(plugin)) = (is_said, plugin) {
        let plugins = client.plugins().await.doing(action)?.value.plugins;
        if plugins.contains(&plugin) {
            return Ok(Chosen::Plugin(plugin));
        }
    }
    let artifacts = client.all_artifacts().await.doing(action)?.value;
    Ok(Chosen::Artifact(of_digest(&artifacts, word)?.digest))
}

async fn remove_one(context: &Context, digest: &Digest, yes: bool) -> Result<(), CommandError> {
    let which = format!("artifact `{digest}`");
    if !yes && !confirmed(context, format!("Remove {which}?")).await {
        return Err(CommandError::Unconfirmed);
    }
    let removed = context.client()?.remove_artifact(digest).await;
    removed.doing(|| format!("remove {which}"))?;
    let text = format!("Removed {which}");
    Ok(context.output.done(&digest.to_string(), &text)?)
}

async fn let_go(
    context: &Context,
    plugin: &Name,
    args: &RemoveArtifactArgs,
) -> Result<(), CommandError> {
    let which = match &args.version {
        Some(version) => format!("the artifacts of plugin `{plugin}` {version}"),
        None => format!("all artifacts that are kept for plugin `{plugin}`"),
    };
    if !args.yes && !confirmed(context, format!("Remove {which}?")).await {
        return Err(CommandError::Unconfirmed);
    }
    context
        .client()?
        .remove_artifacts(plugin, args.version.as_deref())
        .await
        .doing(|| format!("remove {which}"))?;
    let text = format!("Removed {which}");
    Ok(context.output.done(plugin.as_str(), &text)?)
}
