//! `volar vms list`.

use jiff::Timestamp;

use crate::cli::ListArgs;
use crate::client::VmFilter;
use crate::commands::{CommandError, Context, Doing as _};
use crate::output::{vm_table, vm_wide_table};

pub(in crate::commands) async fn run(
    context: &Context,
    args: ListArgs,
) -> Result<(), CommandError> {
    let filter = VmFilter {
        statuses: args.status,
        plugin: args.plugin.map(|name| name.to_string()),
        search: args.search,
        sort: args.sort,
        descending: args.desc,
        limit: args.limit,
    };
    let answer = context
        .client()?
        .vms(&filter)
        .await
        .doing(|| "list the VMs".to_owned())?;
    let names: Vec<&str> = answer.value.iter().map(|vm| vm.name.as_str()).collect();
    Ok(context.output.result(&answer.json, &names, || {
        let table = if context.output.is_wide() {
            vm_wide_table
        } else {
            vm_table
        };
        table(&answer.value, Timestamp::now())
    })?)
}
