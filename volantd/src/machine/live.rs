//! What a driver shows: the VM as clients see it, and the guest that is there to be reached. Decides nothing.

use std::sync::Arc;

use common::api::Vm;
use tokio::sync::watch;

use super::blueprint::Blueprint;
use super::ports::{GuestEndpoint, Instance, InstanceRecord, Lease};

/// A guest whose VMM lives.
#[derive(Clone)]
pub struct Live {
    /// What it is made of.
    pub blueprint: Arc<Blueprint>,
    /// What it holds of the network.
    pub lease: Lease,
    /// How its agent is reached.
    pub endpoint: GuestEndpoint,
    /// Its VMM's process.
    pub record: InstanceRecord,
    /// Its VMM. Only to be asked: what happens to it is the driver's.
    pub vmm: Arc<dyn Instance>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// A guest, and how to learn that it is gone.
#[derive(Debug, Clone)]
pub struct LiveGuest {
    /// The guest as it was when it was looked for.
    pub live: Arc<Live>,
    seen: watch::Receiver<Option<Arc<Live>>>,
}

impl LiveGuest {
    /// A guest that is there now. None if there is none.
    pub(super) fn of(mut seen: watch::Receiver<Option<Arc<Live>>>) -> Option<Self> {
        let live = seen.borrow_and_update().clone()?;
        Some(Self { live, seen })
    }

    /// Ends when this launch of the VM has ended, or when the daemon lets go of it.
    pub async fn gone(mut self) {
        let instance = self.live.record.instance.clone();
        let is_gone = |live: &Option<Arc<Live>>| {
            live.as_ref()
                .is_none_or(|live| live.record.instance != instance)
        };
        // Its driver's end is an end too.
        drop(self.seen.wait_for(is_gone).await);
    }
}

/// Where a driver shows what it knows. A driver that replaces another one has the same.
#[derive(Debug)]
pub(super) struct Publisher {
    /// Shared, so that a list of all VMs copies none.
    vm: watch::Sender<Arc<Vm>>,
    live: watch::Sender<Option<Arc<Live>>>,
}

impl Publisher {
    pub(super) fn new(vm: Vm) -> Self {
        Self {
            vm: watch::Sender::new(Arc::new(vm)),
            live: watch::Sender::new(None),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vm>> {
        self.vm.subscribe()
    }

    pub(super) fn subscribe_live(&self) -> watch::Receiver<Option<Arc<Live>>> {
        self.live.subscribe()
    }

    pub(super) fn borrow(&self) -> watch::Ref<'_, Arc<Vm>> {
        self.vm.borrow()
    }

    /// Shows the VM; gives back what was shown before.
    pub(super) fn send_replace(&self, vm: Arc<Vm>) -> Arc<Vm> {
        self.vm.send_replace(vm)
    }

    /// Shows the guest that is there. To be called before the VM is shown that says so.
    pub(super) fn show_live(&self, live: Option<Live>) {
        self.live.send_replace(live.map(Arc::new));
    }
}
