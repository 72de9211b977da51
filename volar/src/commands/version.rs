//! `volar version`: volar's own version and, if it can be reached, volantd's. An unreachable daemon is no error here.

use serde::Serialize;

use super::{CommandError, Context};

/// The version of this program.
const VOLAR: &str = env!("CARGO_PKG_VERSION");

/// The JSON of `volar version -o json`; the API has none with both.
#[derive(Debug, Serialize)]
struct Versions<'a> {
    volar: &'a str,
    volantd: Option<&'a str>,
    api: String,
}

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let client = context.client()?;
    let daemon = client.system_info().await;
    let versions = Versions {
        volar: VOLAR,
        volantd: daemon.as_ref().ok().map(|info| info.value.version.as_str()),
        api: client.endpoint().to_string(),
    };
    let json = serde_json::to_string(&versions).unwrap_or_default();
    context.output.result(&json, &[VOLAR], || {
        let daemon = versions.volantd.map_or_else(
            || format!("volantd cannot be reached at {}", versions.api),
            |version| format!("volantd {version} at {}", versions.api),
        );
        format!("volar {VOLAR}\n{daemon}")
    })?;
    if let (Err(error), true) = (&daemon, context.output.is_text()) {
        let chain = common::error_chain::Chain(error).to_string();
        context.ui.note(&crate::ui::plain(&chain));
    }
    Ok(())
}
