//! The end of the guest: the last answers, sync, power off. Ends no process: `supervise` does, before.

use std::time::Duration;

use crate::console;
use crate::status::StatusBoard;
use crate::sys::Sys;

/// How long a guest waits for its last answers, and the last lines of its log, to be written.
pub(crate) const ANSWER_BOUND: Duration = Duration::from_millis(500);

/// How often it looks.
const STEP: Duration = Duration::from_millis(5);

/// What a written answer may take from the socket through the virtual network card.
const TRANSMIT: Duration = Duration::from_millis(20);

/// Answers everybody who waits, and lets the answers be written, at most for `bound`. Without anybody it takes no time.
pub(crate) async fn last_answers(board: &StatusBoard, bound: Duration) {
    board.finish();
    if !board.has_unanswered() {
        return;
    }
    let written = async {
        while board.has_unanswered() {
            tokio::time::sleep(STEP).await;
        }
        tokio::time::sleep(TRANSMIT).await;
    };
    // At the bound the guest goes down all the same.
    drop(tokio::time::timeout(bound, written).await);
}

/// Syncs, settles the writable disk and powers off. Comes back only where the kernel refuses, as in a container; then the process ends and the kernel, which
/// cannot be without its PID 1, panics: `panic=1` on the command line makes an end of that too.
pub(crate) fn off(sys: &dyn Sys) {
    sys.sync();
    // All processes are gone or about to be. What they wrote is on the disk, and its file system needs no repair at the next boot.
    if let Err(error) = sys.settle_layer() {
        console::line(&format!("The writable disk is left as it is: {error}"));
    }
    let error = sys.power_off();
    console::fatal(&format!("The kernel does not power off: {error}"));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::boot::fake::FakeSys;

    #[test]
    fn sync_comes_before_power_off() {
        let sys = FakeSys::default();
        off(&sys);
        assert_eq!(sys.acts(), ["sync", "settle_layer", "power_off"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answers_are_awaited_within_the_bound() {
        let board = Arc::new(StatusBoard::new(Duration::ZERO));
        let began = tokio::time::Instant::now();
        last_answers(&board, ANSWER_BOUND).await;
        assert_eq!(began.elapsed(), Duration::ZERO);

        let unanswered = board.unanswered();
        last_answers(&board, ANSWER_BOUND).await;
        assert_eq!(began.elapsed(), ANSWER_BOUND);

        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(unanswered);
        });
        last_answers(&board, ANSWER_BOUND).await;
        let waited = began.elapsed().saturating_sub(ANSWER_BOUND);
        assert!(waited < Duration::from_millis(100), "{waited:?}");
    }
}
