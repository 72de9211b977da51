//! `volar vms config …`.

use std::io::Read as _;
use std::path::Path;

use common::api::{ConfigPatch, VersionedConfig};
use common::name::Name;
use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::Value;

use crate::cli::{ConfigCommand, GetArgs, HistoryArgs, RollbackArgs};
use crate::client::{Answer, Client, names_artifact};
use crate::commands::download::watched;
use crate::commands::{CommandError, Context, Doing as _, JsonError};
use crate::output::history_table;

/// The largest file that is read: a configuration holds a manifest and some choices.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

pub(in crate::commands) async fn run(
    context: &Context,
    command: ConfigCommand,
) -> Result<(), CommandError> {
    match command {
        ConfigCommand::Get(args) => get(context, &args).await,
        ConfigCommand::Set(args) => {
            let (patch, version) = unwrapped(json_of(&read(&args.file)?)?);
            let change = Change {
                patch,
                expected: args.if_version.or(version),
                restart: args.restart,
            };
            apply(context, &args.name, change).await
        }
        ConfigCommand::Patch(args) => {
            let change = Change {
                patch: json_of(&args.patch)?,
                expected: args.if_version,
                restart: args.restart,
            };
            apply(context, &args.name, change).await
        }
        ConfigCommand::History(args) => history(context, &args).await,
        ConfigCommand::Rollback(args) => rollback(context, &args).await,
    }
}

async fn get(context: &Context, args: &GetArgs) -> Result<(), CommandError> {
    let name = &args.name;
    let answer = context
        .client()?
        .config(name)
        .await
        .doing(|| format!("show the configuration of VM `{name}`"))?;
    let json = if args.raw {
        // As it was sent, and not as this version understands it.
        let whole: Value = json_of(&answer.json)?;
        whole.get("config").unwrap_or(&Value::Null).to_string()
    } else {
        answer.json
    };
    if let Some(path) = &args.file {
        let text = serde_json::from_str::<Value>(&json)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or(json);
        fs_err::write(path, format!("{text}\n")).map_err(JsonError::Write)?;
        let text = format!("The configuration of VM {name} is in {}", path.display());
        return Ok(context.output.done(name.as_str(), &text)?);
    }
    // There is no other text for it: it is a document.
    Ok(context.output.document(&json, name.as_str())?)
}

/// A change of a configuration.
pub(super) struct Change {
    pub(super) patch: Value,
    /// The version that it must have still.
    pub(super) expected: Option<u64>,
    /// Whether the VM is started again.
    pub(super) restart: bool,
}

pub(super) async fn apply(
    context: &Context,
    name: &Name,
    change: Change,
) -> Result<(), CommandError> {
    let Change {
        patch,
        expected,
        restart,
    } = change;
    let client = context.client()?;
    let action = || format!("change the configuration of VM `{name}`");
    let call = client.patch_config(name, &patch, expected, restart);
    let answer = if let Some(plugin) = downloads_for(&client, name, &patch).await {
        let mut progress = context.ui.progress(name.as_str());
        progress.phase("volantd takes up its configuration");
        watched(&client, &plugin, &mut progress, call).await
    } else {
        call.await
    };
    let answer = answer.doing(action)?;
    told(context, name, &answer, restart)
}

/// The plugin for which volantd may download something because of this change.
async fn downloads_for(client: &Client, name: &Name, patch: &Value) -> Option<Name> {
    let patch = ConfigPatch::deserialize(patch).ok()?;
    if !names_artifact(&patch) {
        return None;
    }
    match patch.plugin {
        Some(plugin) => Some(plugin),
        // Whatever is wrong, the change itself says it.
        None => Some(client.vm(name).await.ok()?.value.plugin),
    }
}

async fn rollback(context: &Context, args: &RollbackArgs) -> Result<(), CommandError> {
    let RollbackArgs { name, version } = args;
    let answer = context
        .client()?
        .rollback_config(name, *version)
        .await
        .doing(|| format!("take up version {version} of the configuration of VM `{name}`"))?;
    told(context, name, &answer, false)
}

fn told(
    context: &Context,
    name: &Name,
    answer: &Answer<VersionedConfig>,
    restarts: bool,
) -> Result<(), CommandError> {
    let version = answer.value.version;
    context.output.result(&answer.json, &[name.as_str()], || {
        format!("The configuration of VM {name} is version {version}")
    })?;
    if restarts {
        context.ui.note(&format!("VM {name} is started again"));
    } else {
        context.ui.hint(&format!(
            "It takes effect at the next start: `volar vms restart {name}`"
        ));
    }
    Ok(())
}

async fn history(context: &Context, args: &HistoryArgs) -> Result<(), CommandError> {
    let name = &args.name;
    let answer = context
        .client()?
        .config_history(name, args.limit)
        .await
        .doing(|| format!("list the configurations of VM `{name}`"))?;
    let versions: Vec<String> = answer
        .value
        .iter()
        .map(|entry| entry.version.to_string())
        .collect();
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    Ok(context.output.result(&answer.json, &versions, || {
        history_table(&answer.value, Timestamp::now())
    })?)
}

/// The text of a file, or of stdin for `-`.
pub(super) fn read(path: &Path) -> Result<String, JsonError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
    } else {
        let file = fs_err::File::open(path).map_err(JsonError::Read)?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text)
    };
    read.map_err(JsonError::Read)?;
    Ok(text)
}

/// A JSON object.
pub(super) fn json_of(text: &str) -> Result<Value, JsonError> {
    let value: Value = serde_json::from_str(text).map_err(JsonError::Parse)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(JsonError::NoObject)
    }
}

/// What `config get` printed has the configuration inside, and its version.
pub(super) fn unwrapped(mut value: Value) -> (Value, Option<u64>) {
    let version = value.get("version").and_then(Value::as_u64);
    match value.get_mut("config") {
        Some(config) if config.is_object() => (config.take(), version),
        Some(_) | None => (value, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_unwrapped() {
        let plain = json!({"env": {"A": "1"}});
        assert_eq!(unwrapped(plain.clone()), (plain.clone(), None));
        let answer = json!({"version": 3, "updated_at": "x", "config": plain});
        assert_eq!(unwrapped(answer), (plain, Some(3)));
        assert!(matches!(json_of("[]"), Err(JsonError::NoObject)));
        assert!(matches!(json_of("{"), Err(JsonError::Parse(_))));
    }
}
