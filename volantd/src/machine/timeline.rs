//! When each part of a start was reached. Pure arithmetic: the driver says what it saw, and when.

use std::time::Duration;

use common::agent::{AgentStatus, GuestPhase};
use common::api::BootTimeline;
use tokio::time::Instant;

/// Collects one start's timeline.
#[derive(Debug, Clone)]
pub(super) struct Timeline {
    /// When the request arrived.
    origin: Instant,
    /// When the guest's clock began, as the host's clock has it.
    kernel: Option<Instant>,
    so_far: BootTimeline,
}

impl Timeline {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            kernel: None,
            so_far: BootTimeline::default(),
        }
    }

    pub(super) fn vmm_spawned(&mut self, now: Instant) {
        self.so_far.vmm_ms = Some(self.since_origin(now));
    }

    /// Takes the guest's times from a status that was received at `received`.
    ///
    /// An answer takes time, so the guest's clock began no later than each answer says: the earliest counts.
    /// Nothing is changed any more once the VM was ready: two clocks drift apart.
    pub(super) fn heard(&mut self, status: &AgentStatus, received: Instant) {
        if self.so_far.ready_ms.is_some() {
            return;
        }
        let began = received.checked_sub(Duration::from_micros(status.now_us));
        if let Some(began) = began
            && self.kernel.is_none_or(|known| began < known)
        {
            self.kernel = Some(began);
        }
        let Some(kernel) = self.kernel else { return };
        self.so_far.kernel_ms = Some(self.since_origin(kernel));
        let reached = |wanted: GuestPhase| {
            let mark = status.phases.iter().find(|mark| mark.phase == wanted)?;
            Some(self.since_origin(kernel + Duration::from_micros(mark.at_us)))
        };
        let (boot, workload) = (reached(GuestPhase::Boot), reached(GuestPhase::Workload));
        self.so_far.pid1_ms = boot;
        // Later starts of the workload are restarts: once the first is forgotten by the agent, it is kept here.
        self.so_far.workload_ms = workload.or(self.so_far.workload_ms);
    }

    /// The service works, seen from the host. Only the first time counts; says whether this is it.
    pub(super) fn ready(&mut self, now: Instant) -> bool {
        let is_first = self.so_far.ready_ms.is_none();
        if is_first {
            self.so_far.ready_ms = Some(self.since_origin(now));
        }
        is_first
    }

    pub(super) fn so_far(&self) -> BootTimeline {
        self.so_far
    }

    /// Milliseconds, negative for what was before the request (an adopted guest); to the microsecond.
    fn since_origin(&self, moment: Instant) -> f64 {
        let before = self.origin.saturating_duration_since(moment);
        let after = moment.saturating_duration_since(self.origin);
        let ms = |duration: Duration| (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0;
        ms(after) - ms(before)
    }
}

#[cfg(test)]
mod tests {
    use common::agent::{GuestHealth, HealthState, PhaseMark, WorkloadStatus};

    use super::*;

    fn status(now_us: u64, marks: &[(GuestPhase, u64)]) -> AgentStatus {
        AgentStatus {
            version: String::new(),
            generation: 1,
            now_us,
            phase: GuestPhase::Workload,
            phases: marks
                .iter()
                .map(|&(phase, at_us)| PhaseMark { phase, at_us })
                .collect(),
            health: GuestHealth {
                state: HealthState::Unknown,
                reason: None,
                probes: 0,
                last_probe_us: None,
                reachable_from_outside: None,
            },
            workload: WorkloadStatus::default(),
            failure: None,
        }
    }

    #[test]
    fn guest_times_are_put_on_the_hosts_clock() {
        let origin = Instant::now();
        let at = |ms: u64| origin + Duration::from_millis(ms);
        let mut timeline = Timeline::new(origin);
        timeline.vmm_spawned(at(30));
        let marks = [
            (GuestPhase::Boot, 100_000),
            (GuestPhase::Workload, 120_500),
            (GuestPhase::Workload, 900_000),
        ];
        // The first answer took 10 ms, the second one none.
        timeline.heard(&status(150_000, &marks), at(200));
        assert_eq!(timeline.so_far().kernel_ms, Some(50.0));
        timeline.heard(&status(160_000, &marks), at(200));
        assert!(timeline.ready(at(205)));
        assert!(!timeline.ready(at(900)));
        let expected = BootTimeline {
            vmm_ms: Some(30.0),
            kernel_ms: Some(40.0),
            pid1_ms: Some(140.0),
            workload_ms: Some(160.5),
            ready_ms: Some(205.0),
        };
        assert_eq!(timeline.so_far(), expected);
    }

    #[test]
    fn nothing_is_made_up() {
        assert_eq!(
            Timeline::new(Instant::now()).so_far(),
            BootTimeline::default()
        );
    }
}
