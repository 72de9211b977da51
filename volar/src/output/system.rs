//! The daemon itself, for people. Pure text.

use std::path::PathBuf;

use common::api::SystemInfo;
use common::name::Name;

use super::table;
use crate::contexts::Saved;

/// All that the daemon tells of itself.
pub fn info_details(info: &SystemInfo) -> String {
    table::details(&[
        ("Status", info.status.clone()),
        ("Version", info.version.clone()),
        ("API", info.api_listen_addr.clone()),
        ("Reached at", info.api_advertise_addr.clone()),
        ("Host in the bridge", info.host_ip.clone()),
        ("VMM", info.hypervisor.clone()),
        ("Accelerator", info.accelerator.clone()),
        ("Because", info.hypervisor_reason.clone()),
    ])
}

/// A context of the user. The token itself is never shown.
pub fn context_details(name: &Name, saved: &Saved) -> String {
    let shown = |file: &Option<PathBuf>| {
        let path = file.as_ref().map(|path| path.display().to_string());
        path.unwrap_or_default()
    };
    table::details(&[
        ("Name", name.to_string()),
        ("API", saved.api.clone()),
        ("Token file", shown(&saved.token_file)),
        ("CA file", shown(&saved.ca_file)),
    ])
}
