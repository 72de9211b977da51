//! Sets a guest's clock: nothing in a guest does, and one that stood still is behind for as long as it did.

use std::sync::Arc;
use std::time::Duration;

use common::error_chain::Chain;

use super::Driver;

/// How often it is tried. Not setting it is no failure of the VM: it runs all the same, and its log has the host's time.
const TRIES: u32 = 5;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);

impl Driver {
    /// Sets the guest's clock, beside everything else.
    pub(super) fn set_clock(&self) {
        let (parts, endpoint) = (Arc::clone(&self.parts), self.endpoint());
        let vm = self.record.blueprint.name.clone();
        crate::task::spawn("guest-clock", async move {
            for _ in 0..TRIES {
                let now = parts.clock.now();
                match parts.guest.set_clock(&endpoint, now).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(%vm, error = %Chain(&error), "clock of guest not set");
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
            tracing::warn!(%vm, "clock of guest not set: its agent does not answer, or is older than this");
        });
    }
}
