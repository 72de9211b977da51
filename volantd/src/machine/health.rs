//! Whether the service in a VM works: the agent's word and what the host sees, made into one verdict. Pure; probes nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use common::agent::{AgentStatus, GuestPhase, HealthState};
use common::api::VmHealth;

/// How long a service that is healthy inside may be out of the host's reach before that counts: a listener may be a moment late.
pub(super) const REACH_GRACE: Duration = Duration::from_secs(3);

/// How much longer than the manifest's own limit the agent may take to decide. It starts to count when its workload starts, which the host
/// does not see to the moment.
pub(super) const DECISION_GRACE: Duration = Duration::from_secs(15);

/// What the host knows of the way to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not tried since the agent called the service healthy.
    Untried,
    /// It accepts connections.
    Open,
    /// It does not, for this long.
    Closed { reason: String, since: Duration },
}

/// What is known of a guest.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// The agent's last word.
    pub(super) status: &'a AgentStatus,
    /// Where the host reaches the service, if it serves a port.
    pub(super) service: Option<(Ipv4Addr, u16)>,
    /// What became of that.
    pub(super) reach: &'a Reach,
    /// How long the agent has not decided.
    pub(super) undecided: Duration,
    /// The manifest's limit for that.
    pub(super) health_timeout: Duration,
    /// What was last said, which stays while nothing better is known.
    pub(super) known: &'a VmHealth,
}

/// The verdict.
pub(super) fn verdict(view: &View<'_>) -> VmHealth {
    match view.status.health.state {
        HealthState::Healthy => seen_from_outside(view),
        HealthState::Unhealthy => unhealthy(
            own_reason(view.status).unwrap_or_else(|| "The health check fails".to_owned()),
        ),
        HealthState::Unknown => undecided(view),
    }
}

/// What is said when the agent does not answer although the VMM lives.
pub(super) fn silent(error: &str) -> VmHealth {
    unhealthy(format!("The agent does not answer: {error}"))
}

fn undecided(view: &View<'_>) -> VmHealth {
    let reason = own_reason(view.status);
    if view.status.phase == GuestPhase::BackOff {
        return unhealthy(
            reason.unwrap_or_else(|| "The workload ended and is started again".to_owned()),
        );
    }
    if view.undecided > view.health_timeout.saturating_add(DECISION_GRACE) {
        let limit_ms = view.health_timeout.as_millis();
        return unhealthy(
            reason
                .unwrap_or_else(|| format!("The health check gave no result within {limit_ms} ms")),
        );
    }
    VmHealth {
        state: HealthState::Unknown,
        reason,
        last_probe_at: None,
    }
}

fn own_reason(status: &AgentStatus) -> Option<String> {
    let ended = || {
        let exit = status
            .workload
            .last_exit
            .as_ref()
            .filter(|_| status.phase == GuestPhase::BackOff)?;
        Some(format!(
            "The workload ended with exit code {} and is started again",
            exit.code
        ))
    };
    status.health.reason.clone().or_else(ended)
}

fn seen_from_outside(view: &View<'_>) -> VmHealth {
    let Some((ip, port)) = view.service else {
        return healthy();
    };
    match view.reach {
        Reach::Open => healthy(),
        Reach::Untried => view.known.clone(),
        Reach::Closed { .. } if view.status.health.reachable_from_outside == Some(false) => {
            unhealthy(format!(
                "The service listens on 127.0.0.1 only; bind 0.0.0.0:{port}"
            ))
        }
        Reach::Closed { since, .. } if *since < REACH_GRACE => view.known.clone(),
        Reach::Closed { reason, .. } => unhealthy(format!(
            "The service is healthy in the guest, but the host cannot reach {ip}:{port}: {reason}"
        )),
    }
}

fn healthy() -> VmHealth {
    VmHealth {
        state: HealthState::Healthy,
        reason: None,
        last_probe_at: None,
    }
}

fn unhealthy(reason: String) -> VmHealth {
    VmHealth {
        state: HealthState::Unhealthy,
        reason: Some(reason),
        last_probe_at: None,
    }
}

#[cfg(test)]
mod tests {
    use common::agent::{GuestHealth, WorkloadExit, WorkloadStatus};

    use super::*;

    fn status(phase: GuestPhase, state: HealthState) -> AgentStatus {
        AgentStatus {
            version: "0.1.0".to_owned(),
            generation: 3,
            now_us: 0,
            phase,
            phases: Vec::new(),
            health: GuestHealth {
                state,
                reason: None,
                probes: 1,
                last_probe_us: None,
                reachable_from_outside: None,
            },
            workload: WorkloadStatus::default(),
            failure: None,
        }
    }

    fn judge(status: &AgentStatus, reach: &Reach, undecided_s: u64) -> (HealthState, String) {
        let health = verdict(&View {
            status,
            service: Some((Ipv4Addr::new(192, 168, 127, 10), 80)),
            reach,
            undecided: Duration::from_secs(undecided_s),
            health_timeout: Duration::from_secs(10),
            known: &VmHealth::default(),
        });
        (health.state, health.reason.unwrap_or_default())
    }

    fn closed(since_s: u64) -> Reach {
        Reach::Closed {
            reason: "Connection refused".to_owned(),
            since: Duration::from_secs(since_s),
        }
    }

    #[test]
    fn ready_needs_the_agent_and_the_host() {
        let healthy = status(GuestPhase::Ready, HealthState::Healthy);
        assert_eq!(judge(&healthy, &Reach::Open, 0).0, HealthState::Healthy);
        assert_eq!(judge(&healthy, &Reach::Untried, 0).0, HealthState::Unknown);
        assert_eq!(judge(&healthy, &closed(1), 0).0, HealthState::Unknown);
        let (state, reason) = judge(&healthy, &closed(3), 0);
        assert_eq!(state, HealthState::Unhealthy);
        assert!(
            reason.contains("192.168.127.10:80: Connection refused"),
            "{reason}"
        );
        let unknown = status(GuestPhase::Workload, HealthState::Unknown);
        assert_eq!(judge(&unknown, &Reach::Open, 0).0, HealthState::Unknown);
    }

    #[test]
    fn a_service_on_the_loopback_only_is_told_so_at_once() {
        let mut inside = status(GuestPhase::Ready, HealthState::Healthy);
        inside.health.reachable_from_outside = Some(false);
        let expected = "The service listens on 127.0.0.1 only; bind 0.0.0.0:80".to_owned();
        assert_eq!(
            judge(&inside, &closed(0), 0),
            (HealthState::Unhealthy, expected)
        );
    }

    #[test]
    fn a_service_without_a_port_needs_the_agent_only() {
        let ready = status(GuestPhase::Ready, HealthState::Healthy);
        let health = verdict(&View {
            status: &ready,
            service: None,
            reach: &Reach::Untried,
            undecided: Duration::ZERO,
            health_timeout: Duration::ZERO,
            known: &VmHealth::default(),
        });
        assert_eq!(health.state, HealthState::Healthy);
    }

    #[test]
    fn an_agent_that_never_decides_is_decided_for() {
        let unknown = status(GuestPhase::Workload, HealthState::Unknown);
        assert_eq!(judge(&unknown, &Reach::Untried, 24).0, HealthState::Unknown);
        let (state, reason) = judge(&unknown, &Reach::Untried, 26);
        assert_eq!(state, HealthState::Unhealthy);
        assert_eq!(reason, "The health check gave no result within 10000 ms");
    }

    #[test]
    fn a_workload_between_two_starts_is_unhealthy_with_its_end() {
        let mut waiting = status(GuestPhase::BackOff, HealthState::Unknown);
        waiting.workload.last_exit = Some(WorkloadExit {
            code: 3,
            signal: None,
            at_us: 1,
        });
        let (state, reason) = judge(&waiting, &Reach::Untried, 0);
        assert_eq!(state, HealthState::Unhealthy);
        assert_eq!(
            reason,
            "The workload ended with exit code 3 and is started again"
        );
    }
}
