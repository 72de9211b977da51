//! Ways into a guest that runs: sessions, copies and what is passed on. Each VM has a number of places for each, so that neither slow
//! clients nor a guest that stalls can use the daemon up. What is said on a way is not read here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use common::agent::EXEC_PATH;
use common::agent::session::PROTOCOL;
use common::api::VmStatus;
use common::name::Name;
use http_body_util::Empty;
use hyper::body::{Body, Bytes};
use hyper::header::{CONNECTION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ErrorKind, Service, ServiceError};
use crate::agent::{AgentError, GuestBody, Trust, upgraded};
use crate::limits::WayLimits;
use crate::machine::LiveGuest;

/// How long a guest may take to begin a session: it starts nothing before that.
const SESSION_LIMIT: Duration = Duration::from_secs(10);

/// A way into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// A command that runs in it.
    Session,
    /// Files that are copied.
    Copy,
    /// Requests to its agent and workload that are passed on.
    Proxy,
}

impl Way {
    /// How many there may be of one VM at a time.
    const fn places(self, limits: &WayLimits) -> usize {
        match self {
            Self::Session => limits.sessions,
            Self::Copy => limits.copies,
            Self::Proxy => limits.proxied,
        }
    }

    const fn many(self) -> &'static str {
        match self {
            Self::Session => "commands run",
            Self::Copy => "copies are under way",
            Self::Proxy => "requests are passed on",
        }
    }
}

/// The places of all VMs. Those of a VM that nobody uses are forgotten.
#[derive(Debug)]
pub(super) struct Places {
    limits: WayLimits,
    taken: Mutex<BTreeMap<(Name, Way), Weak<Semaphore>>>,
}

impl Places {
    pub(super) fn new(limits: WayLimits) -> Self {
        Self {
            limits,
            taken: Mutex::default(),
        }
    }

    fn take(&self, name: &Name, way: Way) -> Option<OwnedSemaphorePermit> {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), way);
        let places = all.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            all.retain(|_, places| places.strong_count() > 0);
            let places = Arc::new(Semaphore::new(way.places(&self.limits)));
            all.insert(key, Arc::downgrade(&places));
            places
        });
        places.try_acquire_owned().ok()
    }
}

/// A guest that runs, and a place on a way into it.
#[derive(Debug)]
pub struct GuestWay {
    name: Name,
    agent: crate::agent::AgentClient,
    guest: LiveGuest,
    place: OwnedSemaphorePermit,
}

/// A session that the guest's agent has begun.
#[derive(Debug)]
pub struct Session {
    /// The agent's connection.
    pub connection: TokioIo<Upgraded>,
    /// What must be kept for as long as it is used.
    pub hold: Hold,
}

/// A place on a way, and the guest that it leads to.
#[derive(Debug)]
pub struct Hold {
    guest: LiveGuest,
    _place: OwnedSemaphorePermit,
}

impl Hold {
    /// Ends when the guest is gone.
    pub async fn gone(&self) {
        self.guest.clone().gone().await;
    }
}

impl Service {
    /// A way into a guest that runs.
    ///
    /// # Errors
    /// If there is no such VM, it does not run, or too many use this way already.
    pub fn way(&self, name: &Name, way: Way) -> Result<GuestWay, ServiceError> {
        let guest = self.running(name)?;
        let place = self.places.take(name, way).ok_or_else(|| {
            let (many, places) = (way.many(), way.places(&self.places.limits));
            let message = format!("Too many {many} in the VM `{name}` already: {places} at a time");
            ServiceError::new(ErrorKind::Unavailable, message)
        })?;
        Ok(GuestWay {
            name: name.clone(),
            agent: self.parts.agent.clone(),
            guest,
            place,
        })
    }

    /// The guest of a VM that runs.
    ///
    /// # Errors
    /// If there is no such VM, or it does not run.
    pub(super) fn running(&self, name: &Name) -> Result<LiveGuest, ServiceError> {
        let status = self.get_vm(name)?.status;
        let guest = self.parts.registry.live(name)?;
        guest
            .filter(|_| status == VmStatus::Running)
            .ok_or_else(|| {
                let message = format!("The VM `{name}` does not run: it is {}", status.as_str());
                ServiceError::new(ErrorKind::WrongPhase, message)
                    .hint(format!("`volar vms start {name}` starts it"))
            })
    }

    /// Begins a session in a guest.
    ///
    /// # Errors
    /// As [`Service::way`] and [`GuestWay::open`]; or if the guest runs too many commands already.
    pub async fn open_session(&self, name: &Name) -> Result<Session, ServiceError> {
        let way = self.way(name, Way::Session)?;
        let request = Request::post(EXEC_PATH)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(Empty::<Bytes>::new())
            .map_err(|error| unreachable(name, AgentError::Http(Box::new(error))))?;
        let response = way.open(Trust::Secret, request, SESSION_LIMIT).await?;
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                let message = format!("The guest of `{name}` runs too many commands already");
                return Err(ServiceError::new(ErrorKind::Unavailable, message));
            }
            refused => {
                let status = refused.as_u16();
                return Err(unreachable(name, AgentError::Refused { status }));
            }
        }
        let connection = upgraded(response)
            .await
            .map_err(|error| unreachable(name, error))?;
        Ok(Session {
            connection,
            hold: way.hold(),
        })
    }
}

impl GuestWay {
    /// Sends a request to the guest's agent; see [`crate::agent::AgentClient::open`].
    ///
    /// # Errors
    /// If the guest does not answer, or is gone meanwhile.
    pub async fn open<B>(
        &self,
        trust: Trust,
        request: Request<B>,
        limit: Duration,
    ) -> Result<Response<GuestBody>, ServiceError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let endpoint = &self.guest.live.endpoint;
        tokio::select! {
            biased;
            opened = self.agent.open(endpoint, trust, request, limit) => {
                opened.map_err(|error| unreachable(&self.name, error))
            }
            () = self.guest.clone().gone() => {
                let message = format!("The VM `{}` has stopped", self.name);
                Err(ServiceError::new(ErrorKind::WrongPhase, message))
            }
        }
    }

    /// The body of an answer, which keeps this place until it is dropped and breaks off when the guest is gone.
    pub fn streaming(self, body: GuestBody) -> GuestBody {
        let hold = self.hold();
        body.until(async move { hold.gone().await })
    }

    /// Keeps the place for something else than a body.
    pub fn hold(self) -> Hold {
        Hold {
            guest: self.guest,
            _place: self.place,
        }
    }

    /// The VM's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where the workload answers in the guest, if it does.
    pub fn base_url(&self) -> Option<&str> {
        let workload = &self.guest.live.blueprint.manifest.workload;
        workload.base_url.as_deref()
    }

    /// The guest's address.
    pub fn address(&self) -> IpAddr {
        self.guest.live.endpoint.ip.into()
    }
}

/// The guest does not answer, or not as an agent does.
fn unreachable(name: &Name, error: AgentError) -> ServiceError {
    let (kind, message) = match &error {
        AgentError::TimedOut { limit } => (
            ErrorKind::GuestTimedOut,
            format!(
                "The guest of `{name}` did not answer within {} ms",
                limit.as_millis()
            ),
        ),
        _ => (
            ErrorKind::GuestUnreachable,
            format!("The guest of `{name}` cannot be reached: {error}"),
        ),
    };
    ServiceError::new(kind, message)
        .hint(format!("`volar vms logs {name}` shows what it says"))
        .caused(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn each_vm_has_its_own_places_and_gets_them_back() {
        let limits = Limits::default().ways;
        let places = Places::new(limits);
        let (a, b): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
        let taken: Vec<_> = (0..limits.copies)
            .map(|_| places.take(&a, Way::Copy).unwrap())
            .collect();
        assert!(places.take(&a, Way::Copy).is_none());
        assert!(places.take(&a, Way::Proxy).is_some());
        assert!(places.take(&b, Way::Copy).is_some());
        drop(taken);
        assert!(places.take(&a, Way::Copy).is_some());
        let _kept = places.take(&b, Way::Session).unwrap();
        let _more = places.take(&a, Way::Session).unwrap();
        assert!(
            places.taken.lock().unwrap().len() <= 3,
            "unused ones are forgotten"
        );
    }
}
