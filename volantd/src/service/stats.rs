//! What VMs use: the host's side is read, guest and VMM are asked within one short bound, all of them at the same time.

use std::sync::Arc;
use std::time::Duration;

use common::api::{DiskStats, HostStats, NetworkStats, Vm, VmStats, VmStatus};
use common::name::Name;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use super::{ErrorKind, Service, ServiceError};
use crate::machine::{Live, LiveGuest};
use crate::usage::{self, NetworkUse, ProcessUse, Taps};

/// How long guests and VMMs may take to say what they use. One that takes longer is left out of an answer, which is not delayed by it.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// VMs that are asked at a time; each needs a connection.
const MAX_ASKED: usize = 128;

impl Service {
    /// What a VM uses.
    ///
    /// # Errors
    /// If there is no such VM, or its VMM does not live.
    pub async fn stats(&self, name: &Name) -> Result<VmStats, ServiceError> {
        let vm = self.get_vm(name)?;
        let status = vm.status;
        let measured = match self.parts.registry.live(name)? {
            Some(guest) => {
                let deadline = Instant::now() + ASK_LIMIT;
                self.measure(vm, guest, deadline, taps().await).await
            }
            None => None,
        };
        measured.ok_or_else(|| {
            let message = format!("The VM `{name}` uses nothing: it is {}", status.as_str());
            ServiceError::new(ErrorKind::WrongPhase, message)
                .hint(format!("`volar vms start {name}` starts it"))
        })
    }

    /// What all VMs use whose VMM lives, oldest first.
    pub async fn all_stats(&self) -> Vec<VmStats> {
        let deadline = Instant::now() + ASK_LIMIT;
        let taps = taps().await;
        let living = self.list_vms().into_iter().filter_map(|vm| {
            // One that goes meanwhile uses nothing.
            let guest = self.parts.registry.live(&vm.name).ok().flatten()?;
            Some((vm, guest))
        });
        stream::iter(living)
            .map(|(vm, guest)| self.measure(vm, guest, deadline, Arc::clone(&taps)))
            .buffered(MAX_ASKED)
            .filter_map(async |measured| measured)
            .collect()
            .await
    }

    async fn measure(
        &self,
        vm: Vm,
        guest: LiveGuest,
        deadline: Instant,
        taps: Arc<Taps>,
    ) -> Option<VmStats> {
        let live = guest.live;
        let asked = async {
            // A paused guest answers nobody.
            if vm.status != VmStatus::Running {
                return None;
            }
            let stats = self.parts.agent.stats(&live.endpoint, ASK_LIMIT);
            timeout_at(deadline, stats).await.ok()?.ok()
        };
        let disks = async { timeout_at(deadline, live.vmm.disks()).await.ok()?.ok() };
        let (host, guest, disks) = tokio::join!(host(&live), asked, disks);
        let process = host?;
        let disks = disks.unwrap_or_default().into_iter().map(|disk| DiskStats {
            name: disk.name,
            read_bytes: disk.read_bytes,
            write_bytes: disk.write_bytes,
            read_ops: disk.read_ops,
            write_ops: disk.write_ops,
        });
        Some(VmStats {
            name: vm.name,
            at: self.parts.clock.now().to_string(),
            host: HostStats {
                cpu_us: process.cpu_us,
                memory_pss_bytes: process.memory_pss_bytes,
            },
            guest,
            network: taps.of(&live.lease.tap).map(network_stats),
            disks: disks.collect(),
        })
    }
}

async fn taps() -> Arc<Taps> {
    let read = tokio::task::spawn_blocking(Taps::read).await;
    Arc::new(read.unwrap_or_default())
}

/// What the VMM uses of the host. None if it has ended.
async fn host(live: &Arc<Live>) -> Option<ProcessUse> {
    let live = Arc::clone(live);
    let read = tokio::task::spawn_blocking(move || {
        usage::of_process(live.record.pid, live.record.start_ticks)
    });
    match read.await {
        Ok(Ok(used)) => Some(used),
        Ok(Err(error)) => {
            tracing::debug!(error = %common::error_chain::Chain(&error), "vmm not measured");
            None
        }
        Err(_) => None,
    }
}

fn network_stats(used: NetworkUse) -> NetworkStats {
    NetworkStats {
        rx_bytes: used.rx_bytes,
        tx_bytes: used.tx_bytes,
        rx_packets: used.rx_packets,
        tx_packets: used.tx_packets,
        rx_dropped: used.rx_dropped,
        tx_dropped: used.tx_dropped,
    }
}
