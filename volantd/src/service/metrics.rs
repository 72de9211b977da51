//! What Prometheus reads of the daemon: gathered within one short bound, whatever VMMs and the database do meanwhile. Asks no guest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::Vm;
use common::name::Name;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::{ErrorKind, Service, ServiceError};
use crate::machine::Live;
use crate::machine::ports::DiskUse;
use crate::metrics::{Metrics, Snapshot, Totals, VmUse};
use crate::usage::{self, Taps};

/// How long a scrape waits for what must be asked for. What is not there by then is left out of it; Prometheus itself waits 10 s.
const GATHER_LIMIT: Duration = Duration::from_secs(1);

/// How long VMMs are measured, one after the other: less than [`GATHER_LIMIT`], so that those that were measured are there. The memory of
/// a large one takes some milliseconds.
const MEASURE_LIMIT: Duration = Duration::from_millis(800);

/// VMMs that are asked for their disks at a time; each may need a connection.
const MAX_ASKED: usize = 64;

type Living = Vec<(Name, Arc<Live>)>;

impl Service {
    /// Where things are counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// All metrics, as text.
    ///
    /// # Errors
    /// Only where they cannot be written, which is a bug.
    pub async fn scrape(&self) -> Result<String, ServiceError> {
        let vms = self.list_vms();
        let deadline = Instant::now() + GATHER_LIMIT;
        let (uses, totals) = tokio::join!(self.uses(&vms, deadline), self.totals(deadline));
        let snapshot = Snapshot {
            info: self.parts.info.clone(),
            uptime_s: self.began.elapsed().as_secs_f64(),
            process: usage::of_own(),
            totals,
            vms,
            uses,
        };
        let text = self.parts.metrics.render(snapshot);
        text.map_err(|error| {
            ServiceError::new(ErrorKind::Internal, "The metrics cannot be written").caused(error)
        })
    }

    async fn uses(&self, vms: &[Vm], deadline: Instant) -> BTreeMap<Name, VmUse> {
        let living = vms.iter().filter_map(|vm| {
            // One that goes meanwhile uses nothing.
            let guest = self.parts.registry.live(&vm.name).ok().flatten()?;
            Some((vm.name.clone(), guest.live))
        });
        let living: Living = living.collect();
        let (mut uses, disks) = tokio::join!(
            self.hosts(living.clone(), deadline),
            disks(living, deadline)
        );
        for (name, disks) in disks {
            uses.entry(name).or_default().disks = disks;
        }
        uses
    }

    /// What VMs use of their host. One that hangs in the kernel keeps later scrapes from measuring, and nobody else from anything.
    async fn hosts(&self, living: Living, deadline: Instant) -> BTreeMap<Name, VmUse> {
        let measured = async {
            let turn = Arc::clone(&self.measuring).lock_owned().await;
            let measured = tokio::task::spawn_blocking(move || {
                let measured = measure(living);
                drop(turn);
                measured
            });
            measured.await.unwrap_or_default()
        };
        timeout_at(deadline, measured).await.unwrap_or_default()
    }

    async fn totals(&self, deadline: Instant) -> Option<Totals> {
        let store = &self.parts.store;
        let asked = async { tokio::join!(store.plugins(), store.artifacts()) };
        let (plugins, artifacts) = timeout_at(deadline, asked).await.ok()?;
        let (plugins, artifacts) = (plugins.ok()?, artifacts.ok()?);
        Some(Totals {
            plugins: u64::try_from(plugins.len()).ok()?,
            artifacts: u64::try_from(artifacts.len()).ok()?,
            artifact_bytes: artifacts.iter().map(|artifact| artifact.size_bytes).sum(),
        })
    }
}

fn measure(living: Living) -> BTreeMap<Name, VmUse> {
    let began = std::time::Instant::now();
    let taps = Taps::read();
    let measured = living
        .into_iter()
        .take_while(|_| began.elapsed() < MEASURE_LIMIT)
        .map(|(name, live)| {
            let used = VmUse {
                // Without one, it has ended meanwhile.
                process: usage::of_process(live.record.pid, live.record.start_ticks).ok(),
                network: taps.of(&live.lease.tap),
                disks: Vec::new(),
            };
            (name, used)
        });
    measured.collect()
}

async fn disks(living: Living, deadline: Instant) -> Vec<(Name, Vec<DiskUse>)> {
    stream::iter(living)
        .map(async |(name, live)| {
            let asked = timeout_at(deadline, live.vmm.disks()).await;
            Some((name, asked.ok()?.ok()?))
        })
        .buffer_unordered(MAX_ASKED)
        .filter_map(async |asked| asked)
        .collect()
        .await
}
