//! The API token: made once, readable by root and the group `volant`. Checking it is `http/auth.rs`.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::guest_config::Secret;
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::unistd::{Gid, Group};

/// The group whose members may drive the daemon.
pub const GROUP: &str = "volant";

/// The shortest token that is accepted from a file, in bytes: 128 bits as hexadecimal digits.
const MIN_TOKEN_BYTES: usize = 32;

/// 256 random bits of the operating system.
///
/// # Errors
/// If /dev/urandom cannot be read.
pub fn random_secret() -> io::Result<Secret> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::from_random(bytes))
}

/// Reads the token file, or makes it with a new token.
///
/// # Errors
/// If it cannot be read or made, or holds too short a token.
pub fn load_or_create(path: &Path) -> io::Result<Secret> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim();
            if token.len() < MIN_TOKEN_BYTES {
                let message = format!(
                    "`{}` holds no token of at least {MIN_TOKEN_BYTES} characters",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            // The group may have been made after the token.
            share_with_group(path, 0o640)?;
            Ok(Secret::from_stored(token.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        Err(error) => Err(error),
    }
}

fn create(path: &Path) -> io::Result<Secret> {
    let secret = random_secret()?;
    // Nobody may read it before it has its owner and mode.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{}", secret.expose())?;
    share_with_group(path, 0o640)?;
    Ok(secret)
}

/// Gives a file to the group `volant`, where there is one, with this mode.
///
/// # Errors
/// If owner or mode cannot be set.
pub fn share_with_group(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(gid) = group() {
        nix::unistd::chown(path, None, Some(gid)).map_err(io::Error::from)?;
    }
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn group() -> Option<Gid> {
    // No group, or no database of groups: root only.
    Group::from_name(GROUP)
        .ok()
        .flatten()
        .map(|group| group.gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_not_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), made);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn an_empty_token_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "\n").unwrap();
        assert!(load_or_create(&path).is_err());
    }
}
