//! Who types on a console: one at a time, because keys of two would mix. Pure.
//!
//! The first that types has the keyboard until it leaves, or has not typed for [`IDLE`]. Whoever asks for it by force has it at once.

use std::time::Duration;

use tokio::time::Instant;

/// How long somebody who does not type keeps the keyboard from others.
pub const IDLE: Duration = Duration::from_secs(30);

/// What a watcher may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// It only watches.
    Watch,
    /// It types when nobody else does.
    #[default]
    Type,
    /// It takes the keyboard from whoever has it, once.
    Force,
}

/// The keyboard.
#[derive(Debug, Default)]
pub(super) struct Turn {
    holder: Option<(u64, Instant)>,
}

impl Turn {
    /// Whether watcher `id` may type now; then the keyboard is its own.
    pub(super) fn take(&mut self, id: u64, now: Instant) -> bool {
        let is_free = self
            .holder
            .is_none_or(|(holder, since)| holder == id || now.duration_since(since) >= IDLE);
        if is_free {
            self.holder = Some((id, now));
        }
        is_free
    }

    /// Gives the keyboard to watcher `id`.
    pub(super) fn force(&mut self, id: u64, now: Instant) {
        self.holder = Some((id, now));
    }

    /// Watcher `id` is gone.
    pub(super) fn leave(&mut self, id: u64) {
        if self.holder.is_some_and(|(holder, _)| holder == id) {
            self.holder = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_types_at_a_time() {
        let (mut turn, start) = (Turn::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(turn.take(1, start));
        assert!(!turn.take(2, after(29)));
        assert!(turn.take(1, after(29)), "typing keeps it");
        assert!(!turn.take(2, after(58)));
        assert!(turn.take(2, after(59)), "idle for 30 s");
        turn.leave(1);
        assert!(!turn.take(1, after(60)), "it is the other's now");
        turn.leave(2);
        assert!(turn.take(1, after(60)));
        turn.force(3, after(60));
        assert!(!turn.take(1, after(61)));
    }
}
