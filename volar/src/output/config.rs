//! Configurations of VMs and contexts of the user, for people. Pure text.

use common::api::ConfigHistoryEntry;
use jiff::Timestamp;

use super::{age, table};
use crate::contexts::Contexts;

/// The table of `vms config history`.
pub fn history_table(entries: &[ConfigHistoryEntry], now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let (cpu, memory) = entry.config.size();
            vec![
                entry.version.to_string(),
                age(&entry.updated_at, now),
                entry.config.manifest.version.clone(),
                cpu.to_string(),
                format!("{memory} MiB"),
            ]
        })
        .collect();
    table::render(&["VERSION", "AGE", "PLUGIN VERSION", "CPU", "MEM"], &rows)
}

/// The table of `context list`. No token is in it, only where it is.
pub fn context_table(contexts: &Contexts) -> String {
    if contexts.contexts.is_empty() {
        return "No contexts".to_owned();
    }
    let rows: Vec<Vec<String>> = contexts
        .contexts
        .iter()
        .map(|(name, saved)| {
            let current = contexts.current.as_ref() == Some(name);
            let token = saved.token_file.as_ref();
            vec![
                if current { "*" } else { "" }.to_owned(),
                name.to_string(),
                saved.api.clone(),
                token.map_or_else(|| "-".to_owned(), |path| path.display().to_string()),
            ]
        })
        .collect();
    table::render(&["CURRENT", "NAME", "API", "TOKEN FILE"], &rows)
}
