//! `volar vms upgrade`.

use common::api::VmStatus;

use super::{Patience, settle};
use crate::cli::UpgradeArgs;
use crate::commands::{CommandError, Context, Doing as _};
use crate::wait::Goal;

pub(in crate::commands) async fn run(
    context: &Context,
    args: UpgradeArgs,
) -> Result<(), CommandError> {
    let client = context.client()?;
    let name = args.name;
    let action = || format!("upgrade VM `{name}`");
    let before = client.vm(&name).await.doing(action)?.value;
    let first = client.upgrade_vm(&name, args.to).await.doing(action)?;
    let vm = &first.value;
    // No version was made, so nothing changes and there is no way back.
    if vm.config_version == before.config_version {
        context.ui.note(&format!(
            "VM {name} has {} {} already, which is what its plugin is now",
            vm.plugin, vm.plugin_version
        ));
    } else {
        context.ui.note(&format!(
            "VM {name} goes from {} {} to {}; the way back is `volar vms config rollback {name} {}`",
            vm.plugin, before.plugin_version, vm.plugin_version, before.config_version
        ));
    }
    // What is down stays down.
    let is_down = matches!(before.status, VmStatus::Stopped | VmStatus::Failed);
    let patience = Patience::new(Goal::Ready, args.no_wait || is_down, args.timeout);
    settle(context, &client, first, patience).await
}
