//! Keeps one VM's driver alive: a driver that panics is replaced, and its VM goes on from what is recorded. Decides nothing about the VM.

use std::sync::{Arc, Weak};
use std::time::Duration;

use common::error_chain::Chain;
use common::name::Name;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::super::driver::{Command, Driver, INBOX_REQUESTS, Origin, Reply};
use super::super::live::Publisher;
use super::super::parts::Parts;
use super::super::record::VmRecord;
use super::Inner;
use crate::task;
use common::api::Vm;

/// How often the driver of one VM may panic before it is left alone: a panic that comes back each time would fill the log for ever.
const MAX_PANICS: u32 = 3;

/// The wait before a driver is replaced.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Keeps one VM's driver alive.
pub(super) struct Keeper {
    pub(super) registry: Weak<Inner>,
    pub(super) parts: Arc<Parts>,
    pub(super) id: i64,
    pub(super) name: Name,
    pub(super) publisher: Arc<Publisher>,
}

impl Keeper {
    /// Runs drivers, one after the other, until the VM is gone. One is enough unless it panics.
    pub(super) async fn keep(
        self,
        record: VmRecord,
        commands: mpsc::Receiver<Command>,
        origin: Origin,
    ) {
        let mut next = Some((record, commands, origin));
        let mut panics = 0;
        while let Some((record, commands, origin)) = next.take() {
            let driver = Driver::new(
                Arc::clone(&self.parts),
                record,
                commands,
                Arc::clone(&self.publisher),
                origin,
            );
            let driver = AbortOnDropHandle::new(task::spawn("machine", Box::pin(driver.run())));
            match driver.await {
                Ok(deleters) => return self.gone(deleters),
                Err(ended) if ended.is_panic() && panics < MAX_PANICS => {
                    panics += 1;
                    sleep(PANIC_PAUSE).await;
                    next = self.replacement().await;
                }
                // The runtime ends, and the VM goes on.
                Err(ended) if ended.is_cancelled() => return,
                Err(error) => tracing::error!(vm = %self.name, %error, "driver ended for good"),
            }
        }
    }

    fn gone(&self, deleters: Vec<Reply>) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.name, self.id);
        }
        let last = self.publisher.borrow().clone();
        self.parts.events.changed(Some(&last), None);
        for waiting in deleters {
            drop(waiting.send(Ok(Vm::clone(&last))));
        }
    }

    /// What a new driver begins with: the record as the old one left it, and a new inbox.
    async fn replacement(&self) -> Option<(VmRecord, mpsc::Receiver<Command>, Origin)> {
        let records = match self.parts.journal.all().await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(vm = %self.name, error = %Chain(&error), "driver not replaced");
                return None;
            }
        };
        let Some(record) = records
            .into_iter()
            .flatten()
            .find(|record| record.id == self.id)
        else {
            self.gone(Vec::new());
            return None;
        };
        let (inbox, commands) = mpsc::channel(INBOX_REQUESTS);
        let registry = self.registry.upgrade()?;
        if let Some(machine) = registry
            .machines()
            .get_mut(&self.name)
            .filter(|machine| machine.id == self.id)
        {
            machine.inbox = inbox;
        }
        Some((record, commands, Origin::Panicked))
    }
}
