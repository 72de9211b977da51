//! Makes a guest's CPUs stand still and go on: `Paused`, and the way back to `Running`.
//!
//! A phase is recorded before the VMM is told, as everything is. So a new daemon tells the VMM once more, whatever it finds.

use std::time::Duration;

use common::api::Failure;
use common::error_chain::Chain;
use tokio::time::timeout;

use super::super::error::MachineError;
use super::super::outcome::step_failure;
use super::super::ports::{Instance, StepError};
use super::super::state::{Event, Phase};
use super::{Driver, Request, bug};
use crate::machine::plan::Step;

/// How long a VMM may take for either. It waits for its own threads only; the calls have shorter limits of their own.
const MOVE_DEADLINE: Duration = Duration::from_secs(30);

/// What is known of a guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpus {
    /// They run the guest.
    Going,
    /// They stand still.
    Still,
    /// The VMM was told either, and what it did is not known.
    Unknown,
}

impl Driver {
    /// Whether the phase says something else of the CPUs than the VMM was told.
    pub(super) fn is_moving(&self) -> bool {
        match self.state().phase {
            Phase::Running { .. } => self.cpus != Cpus::Going,
            Phase::Paused { .. } => self.cpus != Cpus::Still,
            Phase::Pending
            | Phase::Preparing
            | Phase::Starting
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Crashed { .. }
            | Phase::Failed { .. }
            | Phase::Deleting => false,
        }
    }

    /// `Paused`: tells the VMM, and waits to be asked for something else. Nobody asks the agent meanwhile: it cannot answer.
    pub(super) async fn hold(&mut self) {
        let Some(instance) = self.instance.clone() else {
            let failure = bug("A VM is paused without a VMM");
            return self.apply(Event::Failed(failure)).await;
        };
        let held = self.phase_kind();
        if self.cpus != Cpus::Still {
            let telling = instance.clone();
            let told = self.finish(async move { within_limit(telling.pause()).await });
            match told.await {
                Ok(()) => self.cpus = Cpus::Still,
                Err(error) => {
                    self.cpus = Cpus::Unknown;
                    let failure = self.not_moved("guest not paused", &error);
                    // Whoever is told finds it so.
                    self.apply(Event::NotPaused).await;
                    return self.answer_movers(Some(&(Request::Pause, failure)));
                }
            }
        }
        if self.phase_kind() != held {
            return;
        }
        self.answer_movers(None);
        if let Some(exit) = self.until_turned(held, instance.exited()).await {
            self.ended(&exit, None).await;
        }
    }

    /// Makes the CPUs of a guest that is to run go on. False if they do not, and the VM is paused again.
    pub(super) async fn go_on(&mut self, instance: &dyn Instance) -> bool {
        if self.cpus == Cpus::Going || !matches!(self.state().phase, Phase::Running { .. }) {
            return true;
        }
        let was = self.cpus;
        match self.finish(within_limit(instance.resume())).await {
            Ok(()) => self.cpus = Cpus::Going,
            Err(error) => {
                let failure = self.not_moved("guest not resumed", &error);
                // What is dead is seen next, and of what was not known to stand still its agent tells more.
                let gone = timeout(Duration::ZERO, instance.exited()).await.is_ok();
                if gone || was == Cpus::Unknown {
                    self.cpus = Cpus::Going;
                } else {
                    self.apply(Event::NotResumed).await;
                    self.answer_movers(Some(&(Request::Resume, failure)));
                    return false;
                }
            }
        }
        if !self.is_moving() {
            self.answer_movers(None);
        }
        true
    }

    /// Before a guest is asked to end: it must be able to hear.
    pub(super) async fn wake(&mut self, instance: &dyn Instance) -> bool {
        if self.cpus == Cpus::Going {
            return true;
        }
        match self.finish(within_limit(instance.resume())).await {
            Ok(()) => self.cpus = Cpus::Going,
            Err(error) => drop(self.not_moved("guest not resumed for its end", &error)),
        }
        self.cpus == Cpus::Going
    }

    /// Answers everybody who waits; those who asked for what failed hear why.
    pub(super) fn answer_movers(&mut self, failed: Option<&(Request, Failure)>) {
        if self.movers.is_empty() {
            return;
        }
        let vm = self.public();
        for (request, reply) in std::mem::take(&mut self.movers) {
            let answer = match failed {
                Some((refused, failure)) if moves_as(request, *refused) => {
                    Err(MachineError::NotMoved {
                        name: vm.name.clone(),
                        request,
                        failure: failure.clone(),
                    })
                }
                _ => Ok(vm.clone()),
            };
            drop(reply.send(answer));
        }
    }

    fn not_moved(&self, what: &'static str, error: &StepError) -> Failure {
        tracing::warn!(vm = %self.record.blueprint.name, error = %Chain(error), "{what}");
        step_failure(Step::Vmm.as_str(), error)
    }
}

/// Whether two requests want the same of the CPUs. A start of a paused VM resumes it.
fn moves_as(one: Request, other: Request) -> bool {
    (one == Request::Pause) == (other == Request::Pause)
}

async fn within_limit(call: impl Future<Output = Result<(), StepError>>) -> Result<(), StepError> {
    let limit_s = MOVE_DEADLINE.as_secs();
    let late = || StepError::new(format!("The VMM did not answer within {limit_s} s"));
    timeout(MOVE_DEADLINE, call)
        .await
        .unwrap_or_else(|_| Err(late()))
}
