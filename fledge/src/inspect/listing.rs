//! Every entry of a tree as plain data, in the order of the paths: what `ls -lR` would say of it. Reads no content.

use std::collections::HashMap;

use serde::Serialize;

use crate::tree::{Device, Kind, NodeId, Tree, shown};

/// One path of an artifact.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The path, with its `/`; what is no text in it is escaped.
    pub path: String,
    /// `file`, `directory`, `link`, `character-device`, `block-device`, `pipe` or `socket`.
    pub kind: &'static str,
    /// The lower twelve bits of the mode, in octal.
    pub mode: String,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The size of a file, in bytes; 0 for everything else.
    pub size_bytes: u64,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The first path of the same inode, where this is a further hard link of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// The numbers of a device: `1:3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// All entries of `tree`.
pub fn compose(tree: &Tree) -> Vec<Entry> {
    let mut first: HashMap<NodeId, String> = HashMap::new();
    let entries = tree.iter().map(|item| {
        let attributes = &item.node.attributes;
        let path = shown(item.path);
        let same_as = first.get(&item.id).cloned();
        if same_as.is_none() {
            first.insert(item.id, path.clone());
        }
        let number = |device: &Device| Some(format!("{}:{}", device.major, device.minor));
        let (kind, size_bytes, target, device) = match &item.node.kind {
            Kind::Directory => ("directory", 0, None, None),
            Kind::File(content) => ("file", content.size_bytes(), None, None),
            Kind::Symlink(target) => {
                let target = String::from_utf8_lossy(target).escape_debug().to_string();
                ("link", 0, Some(target), None)
            }
            Kind::CharacterDevice(device) => ("character-device", 0, None, number(device)),
            Kind::BlockDevice(device) => ("block-device", 0, None, number(device)),
            Kind::Fifo => ("pipe", 0, None, None),
            Kind::Socket => ("socket", 0, None, None),
        };
        Entry {
            path,
            kind,
            mode: format!("{:04o}", attributes.permissions),
            uid: attributes.uid,
            gid: attributes.gid,
            size_bytes,
            target,
            same_as,
            device,
        }
    });
    entries.collect()
}

impl Entry {
    /// The entry as a line for people.
    pub fn line(&self) -> String {
        let owner = format!("{}:{}", self.uid, self.gid);
        let end = match (&self.target, &self.same_as, &self.device) {
            (_, Some(path), _) => format!(" = {path}"),
            (Some(target), None, _) => format!(" -> {target}"),
            (None, None, Some(device)) => format!(" ({device})"),
            (None, None, None) => String::new(),
        };
        format!(
            "{:<16} {} {owner:<11} {:>11}  {}{end}",
            self.kind, self.mode, self.size_bytes, self.path
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Node};

    #[test]
    fn each_kind_has_its_line() {
        let mut tree = Tree::default();
        let mut program = Node::file(0o4755, Content::Bytes(vec![0; 12]));
        (program.attributes.uid, program.attributes.gid) = (7, 8);
        tree.replace(b"bin/a", program).unwrap();
        tree.hard_link(b"bin/b", b"bin/a").unwrap();
        tree.replace(b"bin/c", Node::symlink("a\n")).unwrap();
        let mut null = Node::file(0o666, Content::Bytes(Vec::new()));
        null.kind = Kind::CharacterDevice(Device { major: 1, minor: 3 });
        tree.replace(b"dev/null", null).unwrap();
        let entries = compose(&tree);
        let lines: Vec<String> = entries
            .iter()
            .map(|entry| {
                entry
                    .line()
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(
            lines,
            [
                "directory 0755 0:0 0 /bin",
                "file 4755 7:8 12 /bin/a",
                "file 4755 7:8 12 /bin/b = /bin/a",
                "link 0777 0:0 0 /bin/c -> a\\n",
                "directory 0755 0:0 0 /dev",
                "character-device 0666 0:0 0 /dev/null (1:3)",
            ]
        );
        let json = serde_json::to_value(&entries[1]).unwrap();
        let expected = serde_json::json!({
            "path": "/bin/a", "kind": "file", "mode": "4755", "uid": 7, "gid": 8, "size_bytes": 12
        });
        assert_eq!(json, expected);
    }
}
