//! `volar vms list`.

use jiff::Timestamp;

use crate::commands::{CommandError, Context, Doing as _};
use crate::output::vm_table;

pub(in crate::commands) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context
        .client()?
        .vms()
        .await
        .doing(|| "list the VMs".to_owned())?;
    let names: Vec<&str> = answer.value.iter().map(|vm| vm.name.as_str()).collect();
    Ok(context.output.result(&answer.json, &names, || {
        vm_table(&answer.value, Timestamp::now())
    })?)
}
