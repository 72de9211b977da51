//! `volar vms scale`: a change of the configuration in the words of the Go system.

use serde_json::{Map, Value};

use super::config::{Change, apply};
use crate::cli::ScaleArgs;
use crate::commands::{CommandError, Context};

pub(in crate::commands) async fn run(
    context: &Context,
    args: &ScaleArgs,
) -> Result<(), CommandError> {
    if args.replicas.is_some() {
        return Err(CommandError::NoReplicas);
    }
    let change = Change {
        patch: patch(args.cpu, args.memory),
        expected: None,
        restart: args.restart,
    };
    apply(context, &args.name, change).await
}

/// Only what is named changes.
fn patch(cpu: Option<u32>, memory: Option<u32>) -> Value {
    let named = [("cpu_cores", cpu), ("memory_mb", memory)];
    let resources: Map<String, Value> = named
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.into())))
        .collect();
    serde_json::json!({ "resources": resources })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let table = [
            (Some(2), None, json!({"cpu_cores": 2})),
            (None, Some(512), json!({"memory_mb": 512})),
            (Some(1), Some(64), json!({"cpu_cores": 1, "memory_mb": 64})),
        ];
        for (cpu, memory, expected) in table {
            assert_eq!(patch(cpu, memory), json!({"resources": expected}));
        }
    }
}
