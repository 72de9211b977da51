//! `volar context …`: works on the user's file only.

use std::path::PathBuf;

use common::name::Name;

use super::{CommandError, Context};
use crate::cli::{AddContextArgs, ContextCommand, GlobalArgs};
use crate::client::Endpoint;
use crate::contexts::{Contexts, ContextsError, Saved};
use crate::output::{context_details, context_table};
use crate::settings::SettingsError;

pub(crate) fn run(
    context: &Context,
    flags: &GlobalArgs,
    command: ContextCommand,
) -> Result<(), CommandError> {
    let path = context.settings.surroundings.contexts_file();
    let path = path.ok_or(ContextsError::NoHome)?;
    let mut contexts = Contexts::load(&path)?;
    let (name, text) = match command {
        ContextCommand::List => return list(context, &contexts),
        ContextCommand::Show(args) => return show(context, &contexts, args.name),
        ContextCommand::Use(args) => {
            contexts.get(args.name.as_str())?;
            contexts.current = Some(args.name.clone());
            let text = format!("Context {} is the current one", args.name);
            (args.name, text)
        }
        ContextCommand::Add(args) => add(&mut contexts, flags, args)?,
        ContextCommand::Remove(args) => {
            contexts.get(args.name.as_str())?;
            contexts.contexts.remove(&args.name);
            if contexts.current.as_ref() == Some(&args.name) {
                contexts.current = None;
            }
            let text = format!("Context {} is removed", args.name);
            (args.name, text)
        }
    };
    contexts.save(&path)?;
    Ok(context.output.done(name.as_str(), &text)?)
}

fn add(
    contexts: &mut Contexts,
    flags: &GlobalArgs,
    args: AddContextArgs,
) -> Result<(Name, String), CommandError> {
    let api = flags.api.clone().ok_or(CommandError::NoAddress)?;
    let endpoint: Endpoint = api.parse().map_err(|source| SettingsError::Endpoint {
        origin: "--api",
        source,
    })?;
    // It is used from other directories, too.
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(ContextsError::Read);
    let saved = Saved {
        api: endpoint.to_string(),
        token_file: flags.token_file.as_ref().map(absolute).transpose()?,
        ca_file: flags.ca_file.as_ref().map(absolute).transpose()?,
    };
    contexts.contexts.insert(args.name.clone(), saved);
    if args.make_current {
        contexts.current = Some(args.name.clone());
    }
    let text = format!("Context {} is {endpoint}", args.name);
    Ok((args.name, text))
}

fn list(context: &Context, contexts: &Contexts) -> Result<(), CommandError> {
    let json = serde_json::to_string(contexts).unwrap_or_default();
    let names: Vec<&str> = contexts.contexts.keys().map(Name::as_str).collect();
    Ok(context
        .output
        .result(&json, &names, || context_table(contexts))?)
}

fn show(context: &Context, contexts: &Contexts, name: Option<Name>) -> Result<(), CommandError> {
    let name = name.or_else(|| contexts.current.clone());
    let name = name.ok_or(ContextsError::NoCurrent)?;
    let saved = contexts.get(name.as_str())?;
    let json = serde_json::json!({
        "name": name, "api": saved.api, "token_file": saved.token_file,
        "ca_file": saved.ca_file,
        "current": contexts.current.as_ref() == Some(&name)
    });
    let json = json.to_string();
    Ok(context
        .output
        .result(&json, &[name.as_str()], || context_details(&name, saved))?)
}
