//! Server-sent events (WHATWG HTML, 9.2) out of lines. Makes no connection and knows no event's meaning.

use super::LineReader;

/// The most bytes of one event's data. An event of volantd has some kilobytes.
const MAX_DATA_BYTES: usize = 4 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerEvent {
    /// Its name; empty for none.
    pub(super) name: String,
    /// The last id that was seen up to here.
    pub(super) id: Option<String>,
    /// Its data, lines joined by line breaks.
    pub(super) data: String,
}

/// Takes bytes and gives events.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    lines: LineReader,
    /// Of the events that are complete.
    last_id: Option<String>,
    /// Of the one that is not.
    id: Option<String>,
    name: String,
    data: Option<String>,
}

impl SseParser {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// The id of the last block that is complete, be it an event or not.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next complete event.
    pub(super) fn next_event(&mut self) -> Option<ServerEvent> {
        while let Some(line) = self.lines.next_line() {
            if line.is_empty() {
                let name = std::mem::take(&mut self.name);
                if let Some(id) = self.id.take() {
                    self.last_id = Some(id);
                }
                // Without data there is no event, whatever its name.
                if let Some(data) = self.data.take() {
                    let id = self.last_id.clone();
                    return Some(ServerEvent { name, id, data });
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.name),
                "data" => self.add_data(value),
                "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
                // Comments, which have no name, keep the connection alive.
                _ => {}
            }
        }
        None
    }

    fn add_data(&mut self, value: &str) {
        match &mut self.data {
            None => self.data = Some(value.to_owned()),
            Some(data) if data.len() + value.len() < MAX_DATA_BYTES => {
                data.push('\n');
                data.push_str(value);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(String, Option<String>, String)> {
        let mut parser = SseParser::default();
        let mut all = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(ServerEvent { name, id, data }) = parser.next_event() {
                all.push((name, id, data));
            }
        }
        all
    }

    #[test]
    fn events_have_name_id_and_data() {
        let text = b": hello\n\nid: 7\nevent: VM_RUNNING\ndata: {\"a\":\ndata:1}\n\nevent: EMPTY\n\ndata: x\nretry: 5\n\ndata: cut";
        let expected = [
            (
                "VM_RUNNING".to_owned(),
                Some("7".to_owned()),
                "{\"a\":\n1}".to_owned(),
            ),
            (String::new(), Some("7".to_owned()), "x".to_owned()),
        ];
        assert_eq!(events(&[text]), expected);
    }

    #[test]
    fn an_id_counts_once_its_block_is_complete() {
        let mut parser = SseParser::default();
        parser.push(b"id: 41\n");
        assert_eq!((parser.next_event(), parser.last_id()), (None, None));
        parser.push(b"\ndata: x\nid: 42\n");
        assert_eq!((parser.next_event(), parser.last_id()), (None, Some("41")));
        parser.push(b"\n");
        assert!(parser.next_event().is_some());
        assert_eq!(parser.last_id(), Some("42"));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_stream_is_cut(
            text in "(data|id|event|x)?:? ?[a-z]{0,3}(\r\n|\n|\r){0,3}(data: [a-z]\n\n)?", at in 0_usize..40,
        ) {
            let bytes = text.as_bytes();
            let at = at.min(bytes.len());
            prop_assert_eq!(events(&[&bytes[..at], &bytes[at..]]), events(&[bytes]));
        }
    }
}
