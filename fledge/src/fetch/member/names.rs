//! Names of members: in one form, followed along links, and guessed where one was misspelt.

/// Names longer than this are no candidates for what was meant: comparing them takes time and helps nobody.
const MAX_GUESS_BYTES: usize = 200;

/// No more names than this are compared; an archive with more has them all in its index.
const MAX_COMPARED: usize = 100_000;

/// How many names are offered.
const MAX_OFFERED: usize = 3;

/// How alike two names are at least, of 1, for one to be offered for the other.
const MIN_LIKENESS: f64 = 0.6;

/// `path` without empty and `.` components; nothing for one with `..` or a NUL, which no member is asked for by.
pub(super) fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let mut normal = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return None,
            name if name.contains(&0) => return None,
            name => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(name);
            }
        }
    }
    Some(normal)
}

/// `inner` in the directory `outer`; either may be empty.
pub(super) fn join(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    if outer.is_empty() || inner.is_empty() {
        return [outer, inner].concat();
    }
    [outer, b"/", inner].concat()
}

/// Where the symbolic link at `path` leads within the archive.
pub(super) fn follow(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut components: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    components.pop();
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components.join(&b'/'))
}

/// What members there are beside the one that is looked for.
#[derive(Debug)]
pub(super) struct Names {
    wanted: String,
    seen: usize,
    /// The first ones.
    first: Vec<String>,
    /// The most alike ones, best first.
    alike: Vec<(f64, String)>,
}

impl Names {
    pub(super) fn new(wanted: &[u8]) -> Self {
        Self {
            wanted: String::from_utf8_lossy(wanted).into_owned(),
            seen: 0,
            first: Vec::new(),
            alike: Vec::new(),
        }
    }

    /// Takes note of a name; one of a directory ends in `/`.
    pub(super) fn see(&mut self, name: &[u8]) {
        if self.seen >= MAX_COMPARED || name.is_empty() || name.len() > MAX_GUESS_BYTES {
            return;
        }
        self.seen += 1;
        let name = String::from_utf8_lossy(name).into_owned();
        if self.first.len() < MAX_OFFERED {
            self.first.push(name.clone());
        }
        let likeness = likeness(&self.wanted, &name);
        if likeness < MIN_LIKENESS || self.alike.iter().any(|(_, other)| *other == name) {
            return;
        }
        let at = self
            .alike
            .partition_point(|(better, _)| *better >= likeness);
        self.alike.insert(at, (likeness, name));
        self.alike.truncate(MAX_OFFERED);
    }

    /// A clause that says what was meant, or else what there is.
    pub(super) fn clause(&self) -> String {
        let quoted = |names: &[&String], last: &str| {
            let names: Vec<String> = names
                .iter()
                .map(|name| format!("`{}`", name.escape_debug()))
                .collect();
            match names.split_last() {
                Some((end, rest)) if !rest.is_empty() => {
                    format!("{}{last}{end}", rest.join(", "))
                }
                _ => names.concat(),
            }
        };
        let alike: Vec<&String> = self.alike.iter().map(|(_, name)| name).collect();
        if !alike.is_empty() {
            return format!("; did you mean {}?", quoted(&alike, " or "));
        }
        if self.first.is_empty() {
            return String::new();
        }
        let first: Vec<&String> = self.first.iter().collect();
        format!("; it begins with {}", quoted(&first, " and "))
    }
}

/// How alike two paths are: the same file in another directory is the most likely mistake.
fn likeness(wanted: &str, name: &str) -> f64 {
    let last = |path: &str| {
        let path = path.strip_suffix('/').unwrap_or(path);
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let whole = strsim::normalized_damerau_levenshtein(wanted, name);
    if last(wanted) == last(name) {
        return 1.0 + whole;
    }
    whole.max(strsim::normalized_damerau_levenshtein(
        &last(wanted),
        &last(name),
    ))
}
