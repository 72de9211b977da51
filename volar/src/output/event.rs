//! Events for people. Pure text.

use common::api::{EventType, VmEvent};

use crate::ui::plain;

/// One event in a line: when, what, about what, and the daemon's words.
pub fn event_line(event: &VmEvent, color: bool) -> String {
    let kind = format!("{:<16}", event.kind.as_str());
    let kind = match (sgr(event.kind), color) {
        (Some(sgr), true) => format!("\u{1b}[{sgr}m{kind}\u{1b}[0m"),
        (Some(_) | None, _) => kind,
    };
    let line = event.line.as_deref().map(|line| {
        let stream = event.stream.map_or("-", |stream| stream.as_str());
        format!("{stream}: {line}")
    });
    let download = event.download.as_ref().map(|download| {
        let received = super::size(download.received_bytes);
        let total = download.total_bytes.map(super::size);
        let total = total.map_or_else(String::new, |total| format!(" of {total}"));
        format!("{received}{total} of {}", download.source)
    });
    let says = line
        .or(download)
        .or_else(|| event.message.clone())
        .or_else(|| event.phase.clone())
        .or_else(|| event.status.map(|status| status.as_str().to_owned()))
        .unwrap_or_default();
    let text = format!(
        "{:.3}  {kind}  {}  {}",
        event.timestamp,
        event.name,
        plain(&says)
    );
    text.trim_end().to_owned()
}

/// The colour of what somebody should look at, and of what went well.
const fn sgr(kind: EventType) -> Option<&'static str> {
    match kind {
        EventType::VmCrashed | EventType::VmFailed => Some("31"),
        EventType::VmRestart | EventType::VmHealth | EventType::VmPaused => Some("33"),
        EventType::VmRunning | EventType::VmResumed | EventType::PluginInstalled => Some("32"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_harmless_line() {
        let time = "2026-11-23T10:00:00.5Z".parse().unwrap();
        let mut event = VmEvent::new(EventType::VmFailed, "web".parse().unwrap(), time);
        event.message = Some("No \u{1b}[2Jluck".to_owned());
        assert_eq!(
            event_line(&event, false),
            "2026-11-23T10:00:00.500Z  VM_FAILED         web  No \\u{1b}[2Jluck"
        );
        assert!(event_line(&event, true).contains("\u{1b}[31mVM_FAILED"));
        event.line = Some("hello".to_owned());
        assert!(event_line(&event, false).ends_with("web  -: hello"));
        event.line = None;
        event.download = Some(common::api::Download {
            source: "/a.gz".to_owned(),
            received_bytes: 1024,
            total_bytes: Some(2048),
        });
        assert!(event_line(&event, false).ends_with("web  1.0 KiB of 2.0 KiB of /a.gz"));
    }
}
