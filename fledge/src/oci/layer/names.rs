//! Names in a layer: which can be, and what those mean that whiteouts have. Looks at nothing but the name.

/// The longest path and link target in bytes: Linux's `PATH_MAX` without its NUL.
pub(super) const MAX_PATH_BYTES: usize = 4095;

/// The longest name in a directory in bytes: Linux's `NAME_MAX`.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The deepest path. Each entry costs a step per directory above it.
const MAX_DEPTH: usize = 512;

/// What whiteouts begin with (OCI image specification, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// What AUFS's own files begin with, which docker passes over, and the one of them that means something.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What is wrong with a path that leaves the image.
pub(super) const OUTSIDE: &str = "leads out of the image through `..`";

/// A path without what means nothing. One from the root is one from the image's root, as for container engines.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut path = Vec::with_capacity(name.len());
    let mut depth = 0;
    for component in name.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(OUTSIDE),
            _ => {}
        }
        if component.len() > MAX_NAME_BYTES {
            return Err("has a name of more than 255 bytes");
        }
        depth += 1;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err("has a path of more than 4095 bytes");
    }
    if depth > MAX_DEPTH {
        return Err("is nested more than 512 directories deep");
    }
    if path.contains(&0) {
        return Err("has a name with a NUL in it");
    }
    Ok(path)
}

/// What a name means beside being one.
pub(super) enum Marker {
    None,
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
    Ignored,
}

/// What the path of an entry means.
pub(super) fn marker(path: &[u8]) -> Result<Marker, &'static str> {
    let (directory, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[][..], path),
    };
    for above in directory.split(|&byte| byte == b'/') {
        if above.starts_with(AUFS) {
            return Ok(Marker::Ignored);
        }
        if above.starts_with(WHITEOUT) {
            return Err("lies in a directory whose name is reserved for whiteouts");
        }
    }
    if name == OPAQUE {
        return Ok(Marker::Opaque(directory.to_vec()));
    }
    if name.starts_with(AUFS) {
        return Ok(Marker::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Marker::None),
        Some(b"" | b"." | b"..") => Err("is a whiteout of what is no name"),
        Some(hidden) => {
            let mut path = directory.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(hidden);
            Ok(Marker::Whiteout(path))
        }
    }
}
