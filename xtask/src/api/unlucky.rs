//! Answers of 501 to 504 that are right: which operation may give which of them while it is checked. All else above 499 is volantd's fault.

use std::fmt::Write as _;

/// Operations, and what they may answer for one reason.
struct Unlucky {
    operations: &'static [&'static str],
    statuses: &'static [u16],
}

const TABLE: &[Unlucky] = &[
    // They are not built yet.
    Unlucky {
        operations: &[
            "call_mcp",
            "list_deployments",
            "create_deployment",
            "get_deployment",
            "scale_deployment",
            "delete_deployment",
            "get_vfio_device",
            "validate_vfio_devices",
            "list_vfio_groups",
            "bind_vfio_devices",
            "unbind_vfio_devices",
            "list_vfio_paths",
            "open_vm_devtools",
            "list_drift_routes",
            "add_drift_route",
            "remove_drift_route",
        ],
        statuses: &[501],
    },
    // A manifest or a configuration may ask for what is not built yet.
    Unlucky {
        operations: &["change_vm_config", "install_plugin"],
        statuses: &[501],
    },
    // As above, and what is waited for may not come.
    Unlucky {
        operations: &["create_vm"],
        statuses: &[501, 504],
    },
    // What is waited for may not come.
    Unlucky {
        operations: &["delete_vm", "get_vm", "restart_vm", "start_vm", "stop_vm"],
        statuses: &[504],
    },
    // The guest's answer is passed on. The fake has neither a workload nor files.
    Unlucky {
        operations: &[
            "call_plugin_action",
            "call_vm_action",
            "call_vm_delete",
            "call_vm_get",
            "call_vm_patch",
            "call_vm_post",
            "call_vm_put",
            "get_vm_file",
            "stat_vm_file",
        ],
        statuses: &[502, 504],
    },
    // The document is the guest's, or lies elsewhere.
    Unlucky {
        operations: &["get_vm_openapi"],
        statuses: &[502],
    },
];

/// The table in schemathesis' words: for each operation what is no error of the server.
pub(super) fn config() -> String {
    let mut config = String::new();
    for Unlucky {
        operations,
        statuses,
    } in TABLE
    {
        let statuses: Vec<String> = statuses.iter().map(ToString::to_string).collect();
        let statuses = statuses.join(", ");
        for operation in *operations {
            // Writing to a String cannot fail.
            let _infallible = write!(
                config,
                "\n[[operations]]\ninclude-operation-id = \"{operation}\"\n\
                 checks.not_a_server_error = {{ expected-statuses = [\"2xx\", \"3xx\", \"4xx\", {statuses}] }}\n"
            );
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// The operations of docs/openapi.json with their tags and the statuses that are described.
    fn described() -> BTreeMap<String, (String, BTreeSet<String>)> {
        let file = crate::workspace::root().join("docs/openapi.json");
        let document: Value = serde_json::from_slice(&fs_err::read(file).unwrap()).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|path| path.as_object().unwrap().values());
        let named = operations.filter_map(|operation| {
            let id = operation["operationId"].as_str()?.to_owned();
            let tag = operation["tags"][0].as_str().unwrap_or_default().to_owned();
            let statuses = operation["responses"].as_object()?.keys().cloned();
            Some((id, (tag, statuses.collect())))
        });
        named.collect()
    }

    #[test]
    fn only_what_is_described_may_be_answered() {
        let described = described();
        let mut known = BTreeSet::new();
        for Unlucky {
            operations,
            statuses,
        } in TABLE
        {
            for operation in *operations {
                let (_, documented) = &described[*operation];
                for status in *statuses {
                    assert!((501..=504).contains(status), "{operation} {status}");
                    assert!(
                        documented.contains(&status.to_string()),
                        "{operation} {status}"
                    );
                }
                assert!(known.insert(*operation), "{operation} is there twice");
            }
        }
    }

    #[test]
    fn what_is_not_built_is_known() {
        let described = described();
        let absent = described
            .iter()
            .filter(|(_, (tag, _))| tag == "not yet")
            .map(|(id, _)| id.as_str());
        let absent: BTreeSet<&str> = absent.collect();
        let known: BTreeSet<&str> = TABLE[0].operations.iter().copied().collect();
        assert_eq!(absent, known);
    }

    #[test]
    fn the_table_becomes_a_configuration() {
        let config = config();
        let expected = "[[operations]]\ninclude-operation-id = \"create_vm\"\n\
             checks.not_a_server_error = { expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 501, 504] }\n";
        assert!(config.contains(expected), "{config}");
    }
}
