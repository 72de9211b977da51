//! What a host sends after the upgrade to a session: messages as long as they are some, each written again as it came, and then an end or
//! a sentence.
#![no_main]

#[path = "../../src/session/frame.rs"]
mod frame;

use std::sync::LazyLock;

use common::agent::session::{Channel, MAX_PAYLOAD_BYTES, SendSignal, Start, TerminalSize};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().build();
    runtime.expect("a runtime without anything")
});

fuzz_target!(|bytes: &[u8]| RUNTIME.block_on(async {
    let (mut rest, mut again) = (bytes, Vec::new());
    loop {
        match frame::read(&mut rest).await {
            Ok((channel, payload)) => {
                assert!(payload.len() <= MAX_PAYLOAD_BYTES);
                look(channel, &payload);
                let written = frame::write(&mut again, channel, &payload).await;
                written.expect("what was read can be written");
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break;
            }
        }
    }
    assert!(bytes.starts_with(&again));
}));

/// Reads a payload as the agent does: it is refused, or says the same when it is written.
fn look(channel: Channel, payload: &[u8]) {
    match channel {
        Channel::Start => same::<Start>(payload),
        Channel::Resize => same::<TerminalSize>(payload),
        Channel::Signal => same::<SendSignal>(payload),
        _ => {}
    }
}

fn same<T>(json: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(value) = serde_json::from_slice::<T>(json) {
        let again = serde_json::to_vec(&value).expect("a message can be written");
        let again: T = serde_json::from_slice(&again).expect("what we write can be read");
        assert_eq!(again, value);
    }
}
