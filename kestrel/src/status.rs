//! What the guest reports: one [`AgentStatus`] that grows a generation with each change, and a way to wait for the next. Serves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::agent::{
    AgentStatus, GuestHealth, GuestPhase, HealthState, PhaseMark, WorkloadExit, WorkloadStatus,
};
use tokio::sync::watch;

use crate::sys::{Reaped, boot_time};

/// How many phases are kept: what `AgentStatus` promises.
const MAX_PHASE_MARKS: usize = 64;

/// The first phases (boot, workload, ready) stay for good: they are the boot timeline.
const KEPT_PHASE_MARKS: usize = 3;

/// The status and those who wait for it.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    status: watch::Sender<AgentStatus>,
    finished: watch::Sender<bool>,
    unanswered: AtomicUsize,
}

/// A request whose answer is not written yet.
#[derive(Debug)]
pub(crate) struct Unanswered(Arc<StatusBoard>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StatusBoard {
    /// A board in phase boot, which began at `began` of the boot-time clock.
    pub(crate) fn new(began: Duration) -> Self {
        let phase = GuestPhase::Boot;
        let status = AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: 1,
            now_us: 0,
            phase,
            phases: vec![PhaseMark {
                phase,
                at_us: micros(began),
            }],
            health: GuestHealth {
                state: HealthState::Unknown,
                reason: None,
                probes: 0,
                last_probe_us: None,
                reachable_from_outside: None,
            },
            workload: WorkloadStatus::default(),
            failure: None,
        };
        Self {
            status: watch::Sender::new(status),
            finished: watch::Sender::new(false),
            unanswered: AtomicUsize::new(0),
        }
    }

    /// The status as of now.
    pub(crate) fn now(&self) -> AgentStatus {
        let mut status = self.status.borrow().clone();
        status.now_us = micros(boot_time());
        status
    }

    /// The status once its generation is above `generation` or nothing more will change, or as it is after `wait`.
    pub(crate) async fn newer_than(&self, generation: u64, wait: Duration) -> AgentStatus {
        let mut changes = self.status.subscribe();
        let mut end = self.finished.subscribe();
        // Each end of the wait is answered with what there is.
        tokio::select! {
            _ = changes.wait_for(|status| status.generation > generation) => {}
            _ = end.wait_for(|finished| *finished) => {}
            () = tokio::time::sleep(wait) => {}
        }
        self.now()
    }

    /// Nothing will change any more: everybody who waits is answered now.
    pub(crate) fn finish(&self) {
        self.finished.send_replace(true);
    }

    /// Counts a request until its answer is written.
    pub(crate) fn unanswered(self: &Arc<Self>) -> Unanswered {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Unanswered(Arc::clone(self))
    }

    /// Whether a request waits for its answer.
    pub(crate) fn has_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    /// Enters a phase, unless the guest is in it or on its way down already.
    pub(crate) fn enter(&self, phase: GuestPhase) {
        self.change(|status| set_phase(status, phase));
    }

    /// The workload was started as `pid`.
    pub(crate) fn workload_started(&self, pid: u32) {
        self.change(|status| {
            set_phase(status, GuestPhase::Workload);
            status.workload.pid = Some(pid);
            status.health.state = HealthState::Unknown;
            status.health.reason = None;
            status.health.reachable_from_outside = None;
        });
    }

    /// The workload ended.
    pub(crate) fn workload_ended(&self, ended: Reaped) {
        self.change(|status| {
            status.workload.pid = None;
            status.workload.last_exit = Some(WorkloadExit {
                code: ended.code,
                signal: ended.signal,
                at_us: micros(boot_time()),
            });
            status.health.reachable_from_outside = None;
        });
    }

    /// The workload waits to be started again, because of `reason`.
    pub(crate) fn waits_for_restart(&self, reason: String) {
        self.change(|status| {
            set_phase(status, GuestPhase::BackOff);
            status.workload.restarts = status.workload.restarts.saturating_add(1);
            status.health.state = HealthState::Unhealthy;
            status.health.reason = Some(reason);
        });
    }

    /// Whether the workload ends again and again soon after its start.
    pub(crate) fn crash_loop(&self, crash_loop: bool) {
        self.change(|status| status.workload.crash_loop = crash_loop);
    }

    /// How many processes the kernel has ended for lack of memory, as far as it says.
    pub(crate) fn oom_kills(&self, count: Option<u64>) {
        if let Some(count) = count {
            self.change(|status| status.workload.oom_kills = count);
        }
    }

    /// The workload answers, or needs no probe and runs.
    pub(crate) fn healthy(&self) {
        self.change(|status| {
            set_phase(status, GuestPhase::Ready);
            status.health.state = HealthState::Healthy;
            status.health.reason = None;
        });
    }

    /// A probe failed because of `reason`; `state` is the verdict after it.
    pub(crate) fn not_healthy(&self, state: HealthState, reason: String) {
        self.change(|status| {
            status.health.state = state;
            status.health.reason = Some(reason);
        });
    }

    /// A probe has ended. That alone is no news: nobody who waits for a change is woken by it.
    pub(crate) fn probed(&self) {
        self.status.send_if_modified(|status| {
            status.health.probes += 1;
            status.health.last_probe_us = Some(micros(boot_time()));
            false
        });
    }

    /// Whether the workload accepts connections on the guest's own address.
    pub(crate) fn reachable_from_outside(&self, reachable: bool) {
        self.change(|status| status.health.reachable_from_outside = Some(reachable));
    }

    /// The guest cannot go on.
    pub(crate) fn failed(&self, failure: String) {
        self.change(|status| {
            set_phase(status, GuestPhase::Failed);
            status.failure = Some(failure);
        });
    }

    fn change(&self, change: impl FnOnce(&mut AgentStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            let changed = *status != before;
            if changed {
                status.generation = before.generation + 1;
            }
            changed
        });
    }
}

fn set_phase(status: &mut AgentStatus, phase: GuestPhase) {
    let going_down = matches!(status.phase, GuestPhase::Stopping | GuestPhase::Failed);
    if status.phase == phase || (going_down && phase != GuestPhase::Failed) {
        return;
    }
    status.phase = phase;
    if status.phases.len() >= MAX_PHASE_MARKS {
        status.phases.remove(KEPT_PHASE_MARKS);
    }
    status.phases.push(PhaseMark {
        phase,
        at_us: micros(boot_time()),
    });
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> StatusBoard {
        StatusBoard::new(Duration::from_millis(7))
    }

    const EXIT: Reaped = Reaped {
        pid: 9,
        code: 3,
        signal: None,
    };

    #[test]
    fn it_begins_with_boot() {
        let status = board().now();
        assert_eq!(status.generation, 1);
        assert_eq!(status.phases.len(), 1);
        assert_eq!(status.phases[0].at_us, 7000);
        assert!(status.now_us > 0);
    }

    #[test]
    fn only_a_change_grows_the_generation() {
        let board = board();
        board.workload_started(9);
        let generation = board.now().generation;
        board.enter(GuestPhase::Workload);
        assert_eq!(board.now().generation, generation);
        board.healthy();
        assert_eq!(board.now().generation, generation + 1);
        board.healthy();
        assert_eq!(board.now().generation, generation + 1);
    }

    #[test]
    fn a_probe_is_counted_without_being_a_change() {
        let board = board();
        board.probed();
        board.probed();
        let status = board.now();
        assert_eq!((status.generation, status.health.probes), (1, 2));
        assert!(status.health.last_probe_us.is_some());
    }

    #[test]
    fn a_restart_is_told_in_full() {
        let board = board();
        board.workload_started(9);
        board.healthy();
        board.reachable_from_outside(true);
        board.workload_ended(EXIT);
        board.waits_for_restart("It ended".to_owned());
        let status = board.now();
        assert_eq!(status.phase, GuestPhase::BackOff);
        assert_eq!(status.health.state, HealthState::Unhealthy);
        assert_eq!(status.health.reachable_from_outside, None);
        assert_eq!(status.workload.restarts, 1);
        assert_eq!(status.workload.pid, None);
        assert_eq!(status.workload.last_exit.unwrap().code, 3);

        board.workload_started(10);
        assert_eq!(board.now().health.state, HealthState::Unknown);
        board.healthy();
        let phases: Vec<GuestPhase> = board.now().phases.iter().map(|mark| mark.phase).collect();
        assert_eq!(
            phases,
            [
                GuestPhase::Boot,
                GuestPhase::Workload,
                GuestPhase::Ready,
                GuestPhase::BackOff,
                GuestPhase::Workload,
                GuestPhase::Ready
            ]
        );
    }

    #[test]
    fn the_way_down_has_no_way_back() {
        let board = board();
        board.enter(GuestPhase::Stopping);
        board.healthy();
        assert_eq!(board.now().phase, GuestPhase::Stopping);
        board.failed("Broken".to_owned());
        assert_eq!(board.now().phase, GuestPhase::Failed);
        board.enter(GuestPhase::Stopping);
        assert_eq!(board.now().phase, GuestPhase::Failed);
        assert_eq!(board.now().failure.as_deref(), Some("Broken"));
    }

    #[test]
    fn phases_are_bounded_and_keep_the_boot() {
        let board = board();
        board.workload_started(1);
        board.healthy();
        for pid in 2..100 {
            board.waits_for_restart(String::new());
            board.workload_started(pid);
        }
        let phases = board.now().phases;
        assert_eq!(phases.len(), MAX_PHASE_MARKS);
        let first: Vec<GuestPhase> = phases.iter().take(3).map(|mark| mark.phase).collect();
        assert_eq!(
            first,
            [GuestPhase::Boot, GuestPhase::Workload, GuestPhase::Ready]
        );
        assert_eq!(
            phases.last().map(|mark| mark.phase),
            Some(GuestPhase::Workload)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_change_or_its_time() {
        let board = Arc::new(board());
        let wait = Duration::from_secs(5);
        let began = tokio::time::Instant::now();
        assert_eq!(board.newer_than(1, wait).await.generation, 1);
        assert_eq!(began.elapsed(), wait);

        let waiting = tokio::spawn({
            let board = Arc::clone(&board);
            async move { board.newer_than(1, wait).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        board.workload_started(5);
        assert_eq!(waiting.await.unwrap().workload.pid, Some(5));
        assert_eq!(began.elapsed(), Duration::from_secs(6));

        // An old generation is answered at once.
        assert_eq!(board.newer_than(0, wait).await.generation, 2);
        assert_eq!(began.elapsed(), Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_will_not_come() {
        let board = Arc::new(board());
        let began = tokio::time::Instant::now();
        let waiting = tokio::spawn({
            let board = Arc::clone(&board);
            async move { board.newer_than(9, Duration::from_secs(30)).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        board.finish();
        assert_eq!(waiting.await.unwrap().generation, 1);
        board.newer_than(9, Duration::from_secs(30)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn unanswered_requests_are_counted_until_they_are_dropped() {
        let board = Arc::new(board());
        let one = board.unanswered();
        let two = board.unanswered();
        drop(one);
        assert!(board.has_unanswered());
        drop(two);
        assert!(!board.has_unanswered());
    }
}
