//! The rules of a `[[fetch]]`.

use super::{digest, given, http_url};
use crate::build_spec::document::Findings;
use crate::build_spec::{Fetch, Member, raw, shown};

/// The most places that one file is looked for at: a list of mirrors is short.
const MAX_URLS: usize = 16;

/// All permission bits that a file can have: the twelve of `chmod`.
const MAX_MODE: u32 = 0o7777;

/// The fetch that `raw` describes. `place` is its own.
pub(super) fn fetch(raw: &raw::Fetch, place: &str, found: &mut Findings) -> Option<Fetch> {
    let urls = urls(raw, place, found);
    let checksum = digest(raw.sha256.as_ref(), &format!("{place}/sha256"), found);
    if given(raw.sha256.as_ref()).is_none() {
        found.missing(
            &format!("{place}/sha256"),
            "`[[fetch]]` needs `sha256`: without it anything could arrive",
        );
    }
    if raw.path.is_none() {
        found.missing(
            &format!("{place}/path"),
            "`[[fetch]]` needs `path`: where the file goes in the guest",
        );
    }
    let member = raw.member.as_ref().and_then(|text| {
        let parsed = text.parse::<Member>();
        parsed
            .map_err(|error| found.value(&format!("{place}/member"), error.to_string()))
            .ok()
    });
    let mode = raw.mode.as_ref().and_then(|text| {
        let bits = octal(text);
        if bits.is_none() {
            let sentence = format!(
                "`{}` is not a mode: write permissions in octal digits, such as \"0755\"",
                shown(text)
            );
            found.value(&format!("{place}/mode"), sentence);
        }
        bits
    });
    if mode.is_some() && matches!(member, Some(Member::Directory(_))) {
        found.key(
            &format!("{place}/mode"),
            "`mode` has no meaning with a directory: its files keep the archive's",
        );
    }
    Some(Fetch {
        urls: urls?,
        checksum: checksum?,
        member,
        path: raw.path.clone()?,
        mode,
    })
}

fn urls(raw: &raw::Fetch, place: &str, found: &mut Findings) -> Option<Vec<String>> {
    match (given(raw.url.as_ref()), &raw.urls) {
        (Some(_), Some(_)) => {
            found.key(
                &format!("{place}/urls"),
                "`url` and `urls` exclude each other: keep one",
            );
            None
        }
        (Some(url), None) => {
            http_url("url", url, &format!("{place}/url"), found).map(|url| vec![url])
        }
        (None, Some(urls)) if urls.is_empty() || urls.len() > MAX_URLS => {
            let sentence = format!("`urls` must name 1 to {MAX_URLS} places");
            found.value(&format!("{place}/urls"), sentence);
            None
        }
        (None, Some(urls)) => urls
            .iter()
            .enumerate()
            .map(|(index, url)| http_url("urls", url, &format!("{place}/urls/{index}"), found))
            .collect(),
        (None, None) => {
            found.missing(
                &format!("{place}/url"),
                "`[[fetch]]` needs `url` or `urls`: where the file can be had",
            );
            None
        }
    }
}

fn octal(text: &str) -> Option<u32> {
    let is_octal = (1..=5).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let bits = u32::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (bits <= MAX_MODE).then_some(bits)
}
