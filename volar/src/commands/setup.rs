//! `volar setup`: shows or does what `crate::setup` plans.

use super::{CommandError, Context};
use crate::cli::SetupArgs;
use crate::setup::{GROUP, apply, look, plan};

pub(super) fn run(context: &Context, args: &SetupArgs) -> Result<(), CommandError> {
    let facts = look(&args.service_file)?;
    let steps = plan(args, &facts)?;
    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
    if !args.dry_run {
        for (step, line) in steps.iter().zip(&lines) {
            context.ui.note(line);
            apply(step)?;
        }
    }
    let json = serde_json::to_string(&lines).unwrap_or_default();
    let names: Vec<&str> = lines.iter().map(String::as_str).collect();
    context.output.result(&json, &names, || {
        if args.dry_run && lines.is_empty() {
            "Nothing to do".to_owned()
        } else if args.dry_run {
            format!("Would do, as root:\n  {}", lines.join("\n  "))
        } else {
            "This host is set up".to_owned()
        }
    })?;
    if !facts.has_daemon {
        context.ui.hint(&format!(
            "There is no volantd beside volar in {}",
            facts.directory.display()
        ));
    }
    if !facts.has_systemd {
        context
            .ui
            .hint("systemd does not run here: start volantd yourself, as root");
    }
    if !args.dry_run {
        context.ui.hint(&format!(
            "Whoever is to use volar without sudo: `sudo usermod -aG {GROUP} USER`, then log in again"
        ));
        context.ui.hint("`volar doctor` checks this host");
    }
    Ok(())
}
