//! Shows how far the download is that volantd makes for a call. The call needs nothing of it: a volantd that tells nothing is no mistake.

use std::convert::Infallible;
use std::pin::pin;

use common::api::EventType;
use common::name::Name;

use crate::client::{Client, EventQuery, Told};
use crate::ui::Progress;

/// Waits for `call`, and shows meanwhile what volantd downloads for `plugin`.
pub(super) async fn watched<T>(
    client: &Client,
    plugin: &Name,
    progress: &mut Progress,
    call: impl Future<Output = T>,
) -> T {
    if !progress.is_shown() {
        return call.await;
    }
    let mut call = pin!(call);
    tokio::select! {
        biased;
        result = &mut call => result,
        never = show(client, plugin, progress) => match never {},
    }
}

/// Goes on until nobody needs it.
async fn show(client: &Client, plugin: &Name, progress: &mut Progress) -> Infallible {
    let query = EventQuery {
        names: vec![plugin.to_string()],
        types: vec![EventType::Download.to_string()],
        after: None,
    };
    let mut is_whole = false;
    if let Ok(mut reader) = client.events(query).await {
        while let Ok(told) = reader.next().await {
            let Told::Event(event, _) = told else {
                continue;
            };
            let Some(download) = event.download else {
                continue;
            };
            if std::mem::take(&mut is_whole) {
                progress.phase(&format!("volantd fetches {}", download.source));
            }
            progress.bytes(download.received_bytes, download.total_bytes);
            if download.total_bytes == Some(download.received_bytes) {
                is_whole = true;
                progress.phase("volantd verifies it");
            }
        }
    }
    std::future::pending().await
}
