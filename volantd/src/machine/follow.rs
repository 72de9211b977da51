//! Watches one guest: asks its agent, and tries its service from the host. Reports what it finds; what that means is `health`'s.
//!
//! Until a guest has answered once, a new question is asked every few milliseconds whether or not the ones before were answered: a packet to a
//! guest that is not up yet is lost, and the host's TCP would say so a second later. Afterwards one long poll is open at a time.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use common::agent::{AgentStatus, HealthState};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Backoff;
use super::health::Reach;
use super::ports::{BoxFuture, Guest, GuestEndpoint, StepError};

/// The waits between first questions: short, because each millisecond counts at a boot, and a lost packet costs nothing.
const FIRST_ASK: Duration = Duration::from_millis(2);
const SLOWEST_ASK: Duration = Duration::from_millis(100);

/// First questions that may be open at once, and how long each may be: together they span slow answers of an emulated guest. Few, because
/// the client repeats lost packets by itself.
const MAX_OPEN_ASKS: usize = 4;
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// How long the agent may hold a long poll. Below the agent's own limit, and often enough to see a guest that is stuck.
const POLL_WAIT: Duration = Duration::from_secs(20);

/// How much longer than that an answer may take.
const POLL_MARGIN: Duration = Duration::from_secs(5);

/// The waits between polls that fail.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const SLOWEST_RETRY: Duration = Duration::from_secs(2);

/// How long an agent that was there may be silent before that is reported.
const SILENCE_GRACE: Duration = Duration::from_secs(3);

/// Answers with news in a second that are followed up at once. A guest has a handful at its boot and at its end, and none may be missed;
/// but a guest is not trusted, and one that changes its status all the time must not have the daemon spin.
const MAX_NEWS: u32 = 50;

/// The second of [`MAX_NEWS`].
const NEWS_WINDOW: Duration = Duration::from_secs(1);

/// The least time between two polls that bring nothing new: an agent that answers early must not make the daemon spin.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// How long one attempt to reach the service may take, and the waits between attempts that fail.
const REACH_WAIT: Duration = Duration::from_secs(1);
const FIRST_REACH_RETRY: Duration = Duration::from_millis(10);
const SLOWEST_REACH_RETRY: Duration = Duration::from_secs(2);

/// How often a service that was reached is tried again.
const REACH_AGAIN: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug)]
pub(super) enum Observation {
    /// The agent's status is [`Follower::status`].
    Heard,
    /// The agent has not answered for longer than it may.
    Silent(String),
    /// [`Follower::reach`] was tried.
    Reached,
}

type Ask = BoxFuture<'static, Result<AgentStatus, StepError>>;

/// Watches one guest.
pub(super) struct Follower {
    guest: Arc<dyn Guest>,
    endpoint: Arc<GuestEndpoint>,
    service: Option<(Ipv4Addr, u16)>,
    asks: FuturesUnordered<Ask>,
    next_ask: Instant,
    news: NewsBudget,
    asking: Backoff,
    silent_since: Option<Instant>,
    /// Whether the agent was up before: only then is its silence news.
    expected: bool,
    status: Option<AgentStatus>,
    undecided_since: Option<Instant>,
    reach_try: Option<BoxFuture<'static, Result<(), StepError>>>,
    next_reach: Instant,
    reaching: Backoff,
    closed_since: Option<Instant>,
    reach: Reach,
}

impl Follower {
    pub(super) fn new(
        guest: Arc<dyn Guest>,
        endpoint: GuestEndpoint,
        port: Option<u16>,
        expected: bool,
    ) -> Self {
        let service = port.map(|port| (endpoint.ip, port));
        let now = Instant::now();
        Self {
            guest,
            endpoint: Arc::new(endpoint),
            service,
            asks: FuturesUnordered::new(),
            next_ask: now,
            news: NewsBudget {
                count: 0,
                since: now,
            },
            asking: Backoff::new(FIRST_ASK, SLOWEST_ASK),
            silent_since: None,
            expected,
            status: None,
            undecided_since: None,
            reach_try: None,
            next_reach: now,
            reaching: Backoff::new(FIRST_REACH_RETRY, SLOWEST_REACH_RETRY),
            closed_since: None,
            reach: Reach::Untried,
        }
    }

    /// The agent's last word.
    pub(super) fn status(&self) -> Option<&AgentStatus> {
        self.status.as_ref()
    }

    /// What the host knows of the way to the service.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Where the host reaches the service, if it serves a port.
    pub(super) fn service(&self) -> Option<(Ipv4Addr, u16)> {
        self.service
    }

    /// How long the agent has not decided about health.
    pub(super) fn undecided(&self) -> Duration {
        self.undecided_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The next thing that is found. Nothing is lost if it is dropped before.
    pub(super) async fn next(&mut self) -> Observation {
        loop {
            let wants_ask = self.asks.len() < self.open_asks();
            let wants_reach =
                self.reach_try.is_none() && self.is_healthy_inside() && self.service.is_some();
            tokio::select! {
                biased;
                Some(answer) = self.asks.next(), if !self.asks.is_empty() => {
                    if let Some(observation) = self.answered(answer) {
                        return observation;
                    }
                }
                result = finished(&mut self.reach_try), if self.reach_try.is_some() => {
                    self.reach_try = None;
                    self.reached(result);
                    // While nobody answers at all, that is what there is to say.
                    if !self.is_silent() {
                        return Observation::Reached;
                    }
                }
                () = sleep_until(self.next_ask), if wants_ask => self.ask(),
                () = sleep_until(self.next_reach), if wants_reach => self.try_reach(),
            }
        }
    }

    fn open_asks(&self) -> usize {
        if self.status.is_some() {
            1
        } else {
            MAX_OPEN_ASKS
        }
    }

    fn is_silent(&self) -> bool {
        self.silent_since
            .is_some_and(|since| since.elapsed() >= SILENCE_GRACE)
    }

    fn is_healthy_inside(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|status| status.health.state == HealthState::Healthy)
    }

    fn ask(&mut self) {
        let (guest, endpoint) = (Arc::clone(&self.guest), Arc::clone(&self.endpoint));
        let after = self.status.as_ref().map(|status| status.generation);
        let (wait, limit) = match after {
            Some(_) => (POLL_WAIT, POLL_WAIT + POLL_MARGIN),
            None => (Duration::ZERO, ASK_LIMIT),
        };
        self.asks.push(Box::pin(async move {
            let answer = timeout(limit, guest.status(&endpoint, after, wait)).await;
            answer.unwrap_or_else(|_| Err(StepError::new("It took too long")))
        }));
        self.next_ask = Instant::now()
            + if after.is_some() {
                IDLE_PAUSE
            } else {
                self.asking.next()
            };
    }

    fn answered(&mut self, answer: Result<AgentStatus, StepError>) -> Option<Observation> {
        match answer {
            Ok(status) => {
                let is_new = self
                    .status
                    .as_ref()
                    .is_none_or(|known| known.generation != status.generation);
                if is_new {
                    self.next_ask = self.news.follow_up(Instant::now());
                }
                if self.status.is_none() {
                    self.asking = Backoff::new(FIRST_RETRY, SLOWEST_RETRY);
                }
                self.asking.reset();
                self.asks.clear();
                self.silent_since = None;
                self.expected = true;
                self.take(status);
                Some(Observation::Heard)
            }
            Err(error) => {
                let now = Instant::now();
                if self.status.is_some() {
                    self.next_ask = now + self.asking.next();
                }
                if !self.expected {
                    return None;
                }
                self.silent_since.get_or_insert(now);
                self.is_silent()
                    .then_some(Observation::Silent(error.message))
            }
        }
    }

    fn take(&mut self, status: AgentStatus) {
        if status.health.state == HealthState::Unknown {
            self.undecided_since.get_or_insert_with(Instant::now);
        } else {
            self.undecided_since = None;
        }
        if status.health.state != HealthState::Healthy {
            self.reach = Reach::Untried;
            self.reach_try = None;
            self.closed_since = None;
            self.reaching.reset();
            self.next_reach = Instant::now();
        }
        self.status = Some(status);
    }

    fn try_reach(&mut self) {
        let Some((ip, port)) = self.service else {
            return;
        };
        let guest = Arc::clone(&self.guest);
        self.reach_try = Some(Box::pin(async move {
            let reached = timeout(REACH_WAIT * 2, guest.reach(ip, port, REACH_WAIT)).await;
            reached.unwrap_or_else(|_| Err(StepError::new("It took too long")))
        }));
    }

    fn reached(&mut self, result: Result<(), StepError>) {
        let now = Instant::now();
        match result {
            Ok(()) => {
                self.reach = Reach::Open;
                self.closed_since = None;
                self.reaching.reset();
                self.next_reach = now + REACH_AGAIN;
            }
            Err(error) => {
                let since = *self.closed_since.get_or_insert(now);
                self.reach = Reach::Closed {
                    reason: error.message,
                    since: now.duration_since(since),
                };
                self.next_reach = now + self.reaching.next();
            }
        }
    }
}

/// Waits for a future that is there.
async fn finished<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// How many answers with news came in the window that began at `since`.
struct NewsBudget {
    count: u32,
    since: Instant,
}

impl NewsBudget {
    /// When to ask again after an answer with news.
    fn follow_up(&mut self, now: Instant) -> Instant {
        if now.duration_since(self.since) >= NEWS_WINDOW {
            (self.count, self.since) = (0, now);
        }
        self.count += 1;
        if self.count > MAX_NEWS {
            self.since + NEWS_WINDOW
        } else {
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_followed_up_at_once_until_there_are_too_many() {
        let start = Instant::now();
        let mut news = NewsBudget {
            count: 0,
            since: start,
        };
        for _ in 0..MAX_NEWS {
            assert_eq!(news.follow_up(start), start);
        }
        assert_eq!(news.follow_up(start), start + NEWS_WINDOW);
        let later = start + NEWS_WINDOW;
        assert_eq!(news.follow_up(later), later);
    }
}
