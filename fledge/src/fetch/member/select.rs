//! Which members are taken, and where their contents are kept until the image is written.

use std::collections::BTreeMap;
use std::fs::File as HostFile;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::archive::{Archive, Kind, Member, TakeError, Visitor};
use super::names::Names;
use super::{MAX_LINKS, MAX_TAKEN_BYTES, MemberError};
use crate::tree::Content;

/// How much is copied at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// The longest target of a link that Linux follows (`PATH_MAX` without its NUL).
const MAX_TARGET_BYTES: usize = 4095;

/// A member that was taken.
#[derive(Debug, Clone)]
pub(super) enum Item {
    File {
        content: Content,
        /// As in the archive.
        permissions: u32,
    },
    Directory,
    Symlink(Vec<u8>),
    HardLink(Option<Vec<u8>>),
    Other(&'static str),
}

/// A temporary file without a name for contents.
#[derive(Debug, Default)]
pub(super) struct Spool {
    file: Option<Arc<HostFile>>,
    bytes: u64,
}

impl Spool {
    fn item(&mut self, member: Member, content: &mut dyn Read) -> Result<Item, TakeError> {
        Ok(match member.kind {
            Kind::File => Item::File {
                content: self.content(content)?,
                permissions: member.permissions & 0o7777,
            },
            Kind::Directory => Item::Directory,
            Kind::Symlink(target)
                if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) =>
            {
                Item::Other("a symbolic link that no system could follow")
            }
            Kind::Symlink(target) => Item::Symlink(target),
            Kind::HardLink(target) => Item::HardLink(target),
            Kind::Other(what) => Item::Other(what),
        })
    }

    fn content(&mut self, content: &mut dyn Read) -> Result<Content, TakeError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(
                self.file
                    .insert(Arc::new(tempfile::tempfile().map_err(TakeError::Write)?)),
            ),
        };
        let offset = self.bytes;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TakeError::Read(error)),
            };
            let end = self.bytes + u64::try_from(count).unwrap_or(u64::MAX);
            if end > MAX_TAKEN_BYTES {
                return Err(TakeError::TooLarge(MAX_TAKEN_BYTES));
            }
            file.write_all_at(&buffer[..count], self.bytes)
                .map_err(TakeError::Write)?;
            self.bytes = end;
        }
        Ok(Content::Part {
            file,
            offset,
            size_bytes: self.bytes - offset,
        })
    }
}

/// Takes one file.
#[derive(Debug)]
pub(super) struct File<'a> {
    wanted: &'a [u8],
    spool: &'a mut Spool,
    item: Option<Item>,
    /// Whether something lies in it.
    is_parent: bool,
    pub(super) names: Names,
}

impl<'a> File<'a> {
    pub(super) fn new(wanted: &'a [u8], spool: &'a mut Spool) -> Self {
        Self {
            wanted,
            spool,
            item: None,
            is_parent: false,
            names: Names::new(wanted),
        }
    }

    /// What the archive has there; of several with the same name, the last one.
    pub(super) fn found(&mut self) -> Option<Item> {
        let item = self.item.take();
        item.or_else(|| self.is_parent.then_some(Item::Directory))
    }
}

impl Visitor for File<'_> {
    fn wants(&mut self, member: &Member) -> bool {
        if let Some(inner) = member.path.strip_prefix(self.wanted) {
            if inner.is_empty() {
                return true;
            }
            self.is_parent |= inner.starts_with(b"/");
        }
        if member.kind != Kind::Directory {
            self.names.see(&member.path);
        }
        false
    }

    fn take(&mut self, member: Member, content: &mut dyn Read) -> Result<(), TakeError> {
        self.item = Some(self.spool.item(member, content)?);
        Ok(())
    }
}

/// Takes what is in a directory.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    /// Empty for the whole archive.
    wanted: &'a [u8],
    spool: &'a mut Spool,
    /// By paths within the directory.
    pub(super) items: BTreeMap<Vec<u8>, Item>,
    /// Whether the directory itself is a member.
    pub(super) is_there: bool,
    other: Option<&'static str>,
    pub(super) names: Names,
}

impl<'a> Directory<'a> {
    pub(super) fn new(wanted: &'a [u8], spool: &'a mut Spool) -> Self {
        Self {
            wanted,
            spool,
            items: BTreeMap::new(),
            is_there: wanted.is_empty(),
            other: None,
            names: Names::new(&[wanted, b"/"].concat()),
        }
    }

    /// What the member is, if it is no directory.
    pub(super) fn is_no_directory(&self) -> Option<&'static str> {
        self.other
    }

    fn inner<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if self.wanted.is_empty() {
            return Some(path);
        }
        let inner = path.strip_prefix(self.wanted)?;
        if inner.is_empty() {
            return Some(inner);
        }
        inner.strip_prefix(b"/")
    }

    /// What was taken, hard links as what they lead to. Reads the archive again if that is outside the directory.
    pub(super) fn resolve(
        mut self,
        archive: &Archive<'_>,
    ) -> Result<BTreeMap<Vec<u8>, Item>, MemberError> {
        let mut targets = Targets {
            spool: &mut *self.spool,
            items: BTreeMap::new(),
        };
        for item in self.items.values() {
            if let Item::HardLink(Some(target)) = item {
                targets.items.insert(target.clone(), None);
            }
        }
        if targets.items.is_empty() {
            return Ok(self.items);
        }
        for (inner, item) in &self.items {
            let path = super::names::join(self.wanted, inner);
            if let Some(slot) = targets.items.get_mut(&path) {
                *slot = Some(item.clone());
            }
        }
        // A link may lead to a link: each round looks for what those of the one before lead to.
        for _ in 0..=MAX_LINKS {
            let further: Vec<Vec<u8>> = targets.links().collect();
            for path in further {
                targets.items.entry(path).or_insert(None);
            }
            let missing = |targets: &Targets<'_>| {
                let missing = targets.items.values().filter(|item| item.is_none());
                missing.count()
            };
            let before = missing(&targets);
            if before == 0 {
                break;
            }
            archive.scan(&mut targets)?;
            if missing(&targets) == before {
                break;
            }
        }
        let targets = targets.items;
        for item in self.items.values_mut() {
            if let Item::HardLink(_) = item {
                *item = followed(item.clone(), &targets);
            }
        }
        Ok(self.items)
    }
}

fn followed(mut item: Item, targets: &BTreeMap<Vec<u8>, Option<Item>>) -> Item {
    for _ in 0..=MAX_LINKS {
        let next = match &item {
            Item::HardLink(Some(target)) => targets.get(target).cloned().flatten(),
            _ => return item,
        };
        match next {
            Some(next) => item = next,
            None => break,
        }
    }
    Item::HardLink(None)
}

impl Visitor for Directory<'_> {
    fn wants(&mut self, member: &Member) -> bool {
        match self.inner(&member.path) {
            Some(b"") => {
                self.is_there = true;
                self.other = match member.kind {
                    Kind::Directory => None,
                    Kind::Symlink(_) => Some("a symbolic link, not a directory"),
                    _ => Some("not a directory; without `/` at its end it is taken as a file"),
                };
                false
            }
            Some(_) => true,
            None => {
                let parent = member.path.iter().rposition(|&byte| byte == b'/');
                match (&member.kind, parent) {
                    (Kind::Directory, _) => self.names.see(&[&member.path, &b"/"[..]].concat()),
                    (_, Some(parent)) => self.names.see(&member.path[..=parent]),
                    (_, None) => {}
                }
                false
            }
        }
    }

    fn take(&mut self, member: Member, content: &mut dyn Read) -> Result<(), TakeError> {
        let Some(inner) = self.inner(&member.path).map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let item = self.spool.item(member, content)?;
        self.items.insert(inner, item);
        Ok(())
    }
}

/// Takes what hard links lead to.
struct Targets<'a> {
    spool: &'a mut Spool,
    /// By path in the archive; nothing for what was not found yet.
    items: BTreeMap<Vec<u8>, Option<Item>>,
}

impl Targets<'_> {
    /// Where the links among them lead.
    fn links(&self) -> impl Iterator<Item = Vec<u8>> {
        self.items.values().filter_map(|item| match item {
            Some(Item::HardLink(target)) => target.clone(),
            _ => None,
        })
    }
}

impl Visitor for Targets<'_> {
    fn wants(&mut self, member: &Member) -> bool {
        matches!(self.items.get(&member.path), Some(None))
    }

    fn take(&mut self, member: Member, content: &mut dyn Read) -> Result<(), TakeError> {
        let path = member.path.clone();
        let item = self.spool.item(member, content)?;
        self.items.insert(path, Some(item));
        Ok(())
    }
}
