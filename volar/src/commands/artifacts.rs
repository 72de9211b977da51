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
    let wanted = digest.to_ascii_lowercase();
    let wanted = wanted.strip_prefix("sha256:").unwrap_or(&wanted);
    let is_wanted = |row: &&StoredArtifact| {
        let digest = row.digest.to_string();
        digest.trim_start_matches("sha256:").starts_with(wanted)
    };
    let found: Vec<&StoredArtifact> = answer.value.iter().filter(is_wanted).collect();
    let Some(first) = found.first() else {
        return Err(ArtifactError::Unknown(digest.to_owned()).into());
    };
    if found.iter().any(|row| row.digest != first.digest) {
        return Err(ArtifactError::Ambiguous(digest.to_owned()).into());
    }
    let json = serde_json::to_string(first).unwrap_or_default();
    let name = first.digest.to_string();
    Ok(context
        .output
        .result(&json, &[&name], || artifact_details(first))?)
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
    let client = context.client()?;
    if let (Ok(digest), None) = (args.what.parse::<Digest>(), &args.version) {
        let which = format!("artifact `{digest}`");
        if !args.yes && !confirmed(context, format!("Remove {which}?")).await {
            return Err(CommandError::Unconfirmed);
        }
        let removed = client.remove_artifact(&digest).await;
        removed.doing(|| format!("remove {which}"))?;
        let text = format!("Removed {which}");
        return Ok(context.output.done(&digest.to_string(), &text)?);
    }
    let plugin: Name = args.what.parse().map_err(ArtifactError::Name)?;
    let which = match &args.version {
        Some(version) => format!("the artifacts of plugin `{plugin}` {version}"),
        None => format!("all artifacts that are kept for plugin `{plugin}`"),
    };
    if !args.yes && !confirmed(context, format!("Remove {which}?")).await {
        return Err(CommandError::Unconfirmed);
    }
    client
        .remove_artifacts(&plugin, args.version.as_deref())
        .await
        .doing(|| format!("remove {which}"))?;
    let text = format!("Removed {which}");
    Ok(context.output.done(plugin.as_str(), &text)?)
}
