//! The numbers that a scrape brings along: the daemon's own and each VM's, as they are now. Gathers nothing itself.

use std::collections::BTreeMap;
use std::fmt;

use common::agent::HealthState;
use common::api::{SystemInfo, Vm, VmStatus};
use common::name::Name;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::machine::ports::DiskUse;
use crate::usage::{NetworkUse, OwnUse, ProcessUse};

/// Every status has its series, whether or not a VM is in it: a graph without gaps.
const STATUSES: [VmStatus; 9] = [
    VmStatus::Pending,
    VmStatus::Starting,
    VmStatus::Running,
    VmStatus::Paused,
    VmStatus::Stopping,
    VmStatus::Stopped,
    VmStatus::Crashed,
    VmStatus::Failed,
    VmStatus::Deleting,
];

const US_PER_S: f64 = 1_000_000.0;

/// What the daemon keeps. None where its database did not answer soon enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Installed plugins.
    pub plugins: u64,
    /// Stored artifacts.
    pub artifacts: u64,
    /// Their bytes.
    pub artifact_bytes: u64,
}

/// What a VM uses, as far as it was measured.
#[derive(Debug, Clone, Default)]
pub struct VmUse {
    /// Its VMM.
    pub process: Option<ProcessUse>,
    /// What went through its interface.
    pub network: Option<NetworkUse>,
    /// What it did with each of its disks. None where the VMM did not say soon enough.
    pub disks: Vec<DiskUse>,
}

impl VmUse {
    /// A counter over all disks.
    fn disks(&self, counter: fn(&DiskUse) -> u64) -> Option<Value> {
        let sum = self.disks.iter().map(counter).reduce(u64::saturating_add);
        sum.map(Value::Whole)
    }
}

/// What is so at the moment of a scrape.
#[derive(Debug)]
pub struct Snapshot {
    /// The daemon.
    pub info: SystemInfo,
    /// How long it runs, in seconds.
    pub uptime_s: f64,
    /// Its process.
    pub process: OwnUse,
    /// What it keeps.
    pub totals: Option<Totals>,
    /// All VMs.
    pub vms: Vec<Vm>,
    /// What those use that could be measured.
    pub uses: BTreeMap<Name, VmUse>,
}

/// A number as Prometheus has it.
#[derive(Debug, Clone, Copy)]
enum Value {
    Whole(u64),
    Real(f64),
}

/// A metric that each VM has.
struct OfVm {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    read: fn(&Vm, Option<&VmUse>) -> Option<Value>,
}

impl OfVm {
    fn counter(
        name: &'static str,
        help: &'static str,
        read: fn(&Vm, Option<&VmUse>) -> Option<Value>,
    ) -> Self {
        Self {
            name,
            help,
            unit: None,
            kind: MetricType::Counter,
            read,
        }
    }

    fn gauge(
        name: &'static str,
        help: &'static str,
        read: fn(&Vm, Option<&VmUse>) -> Option<Value>,
    ) -> Self {
        Self {
            kind: MetricType::Gauge,
            ..Self::counter(name, help, read)
        }
    }

    fn in_unit(self, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..self
        }
    }
}

fn bit(is_so: bool) -> Value {
    Value::Whole(u64::from(is_so))
}

/// How a VM is.
fn states() -> [OfVm; 5] {
    use Value::Whole;
    [
        OfVm::gauge("volant_vm_up", "Whether the guest is up", |vm, _| {
            Some(bit(matches!(
                vm.status,
                VmStatus::Running | VmStatus::Paused
            )))
        }),
        OfVm::gauge(
            "volant_vm_healthy",
            "Whether the service in the VM works",
            |vm, _| Some(bit(vm.health.state == HealthState::Healthy)),
        ),
        OfVm::counter(
            "volant_vm_restarts",
            "Starts of the VM after it ended by itself",
            |vm, _| Some(Whole(u64::from(vm.restarts.vm))),
        ),
        OfVm::counter(
            "volant_vm_workload_restarts",
            "Starts of the workload after it ended, since the guest booted",
            |vm, _| Some(Whole(u64::from(vm.restarts.workload))),
        ),
        OfVm::counter(
            "volant_vm_oom_kills",
            "Processes that the guest's kernel ended for lack of memory, since the guest booted",
            |vm, _| Some(Whole(vm.oom_kills)),
        ),
    ]
}

/// What a VM uses.
fn uses() -> [OfVm; 11] {
    use Value::{Real, Whole};
    [
        OfVm::counter("volant_vm_cpu", "CPU time of the VMM", |_, used| {
            Some(Real(real(used?.process?.cpu_us) / US_PER_S))
        })
        .in_unit(Unit::Seconds),
        OfVm::gauge(
            "volant_vm_memory_pss",
            "The VMM's share of the host memory that it uses",
            |_, used| used?.process?.memory_pss_bytes.map(Whole),
        )
        .in_unit(Unit::Bytes),
        OfVm::counter(
            "volant_vm_network_receive",
            "Bytes that the guest received",
            |_, used| Some(Whole(used?.network?.rx_bytes)),
        )
        .in_unit(Unit::Bytes),
        OfVm::counter(
            "volant_vm_network_transmit",
            "Bytes that the guest sent",
            |_, used| Some(Whole(used?.network?.tx_bytes)),
        )
        .in_unit(Unit::Bytes),
        OfVm::counter(
            "volant_vm_network_receive_packets",
            "Packets that the guest received",
            |_, used| Some(Whole(used?.network?.rx_packets)),
        ),
        OfVm::counter(
            "volant_vm_network_transmit_packets",
            "Packets that the guest sent",
            |_, used| Some(Whole(used?.network?.tx_packets)),
        ),
        OfVm::counter(
            "volant_vm_network_dropped_packets",
            "Packets to and from the guest that the host dropped",
            |_, used| {
                let network = used?.network?;
                Some(Whole(network.rx_dropped.saturating_add(network.tx_dropped)))
            },
        ),
        OfVm::counter(
            "volant_vm_disk_read",
            "Bytes that the guest read from its disks",
            |_, used| used?.disks(|disk| disk.read_bytes),
        )
        .in_unit(Unit::Bytes),
        OfVm::counter(
            "volant_vm_disk_write",
            "Bytes that the guest wrote to its disks",
            |_, used| used?.disks(|disk| disk.write_bytes),
        )
        .in_unit(Unit::Bytes),
        OfVm::counter(
            "volant_vm_disk_reads",
            "Requests of the guest to read from its disks",
            |_, used| used?.disks(|disk| disk.read_ops),
        ),
        OfVm::counter(
            "volant_vm_disk_writes",
            "Requests of the guest to write to its disks",
            |_, used| used?.disks(|disk| disk.write_ops),
        ),
    ]
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.daemon(&mut encoder)?;
        self.kept(&mut encoder)?;
        self.process(&mut encoder)?;
        for metric in states().iter().chain(&uses()) {
            self.of_vms(&mut encoder, metric)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn daemon(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut build = encoder.encode_descriptor(
            "volant_build",
            "The daemon's version, hypervisor and accelerator.",
            None,
            MetricType::Info,
        )?;
        let labels = [
            ("version", self.info.version.as_str()),
            ("hypervisor", self.info.hypervisor.as_str()),
            ("accelerator", self.info.accelerator.as_str()),
        ];
        build.encode_info(&labels)?;
        let uptime = encoder.encode_descriptor(
            "volant_uptime",
            "How long the daemon runs.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.uptime_s).encode(uptime)?;
        let mut vms =
            encoder.encode_descriptor("volant_vms", "VMs by status.", None, MetricType::Gauge)?;
        for status in STATUSES {
            let count = self.vms.iter().filter(|vm| vm.status == status).count();
            let labels = [("status", status.as_str())];
            ConstGauge::new(count).encode(vms.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn kept(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let totals = self.totals;
        let kept = [
            (
                "volant_plugins",
                "Installed plugins.",
                None,
                totals.map(|totals| totals.plugins),
            ),
            (
                "volant_artifacts",
                "Stored artifacts.",
                None,
                totals.map(|totals| totals.artifacts),
            ),
            (
                "volant_artifact_store",
                "Bytes of the stored artifacts.",
                Some(Unit::Bytes),
                totals.map(|totals| totals.artifact_bytes),
            ),
        ];
        for (name, help, unit, value) in kept {
            let gauge = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            if let Some(value) = value {
                ConstGauge::new(value).encode(gauge)?;
            }
        }
        Ok(())
    }

    /// Under the names that Prometheus' own client libraries use ("Standard and runtime collectors"), so that dashboards for any process work.
    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let facts = &self.process;
        let gauges = [
            (
                "process_open_fds",
                "Open file descriptors of the daemon.",
                None,
                facts.open_fds,
            ),
            (
                "process_max_fds",
                "The most file descriptors that it may open.",
                None,
                facts.max_fds,
            ),
            (
                "process_resident_memory",
                "Resident memory of the daemon.",
                Some(Unit::Bytes),
                facts.resident_bytes,
            ),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            if let Some(value) = value {
                ConstGauge::new(value).encode(gauge)?;
            }
        }
        let cpu = encoder.encode_descriptor(
            "process_cpu",
            "CPU time of the daemon.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        if let Some(cpu_us) = facts.cpu_us {
            ConstCounter::new(real(cpu_us) / US_PER_S).encode(cpu)?;
        }
        Ok(())
    }

    fn of_vms(&self, encoder: &mut DescriptorEncoder<'_>, metric: &OfVm) -> Result<(), fmt::Error> {
        let help = format!("{}.", metric.help);
        let mut family =
            encoder.encode_descriptor(metric.name, &help, metric.unit.as_ref(), metric.kind)?;
        for vm in &self.vms {
            let Some(value) = (metric.read)(vm, self.uses.get(&vm.name)) else {
                continue;
            };
            let labels = [("vm", vm.name.as_str())];
            let sample = family.encode_family(&labels)?;
            match (metric.kind, value) {
                (MetricType::Counter, Value::Whole(value)) => {
                    ConstCounter::new(value).encode(sample)?;
                }
                (MetricType::Counter, Value::Real(value)) => {
                    ConstCounter::new(value).encode(sample)?;
                }
                (_, Value::Whole(value)) => ConstGauge::new(value).encode(sample)?,
                (_, Value::Real(value)) => ConstGauge::new(value).encode(sample)?,
            }
        }
        Ok(())
    }
}

/// A counter as a real number, exact up to 2^53 µs, which is 285 years.
fn real(number: u64) -> f64 {
    let (high, low) = (number >> 32, number & 0xffff_ffff);
    let part = |bits: u64| f64::from(u32::try_from(bits).unwrap_or(u32::MAX));
    part(high) * 4_294_967_296.0 + part(low)
}
