//! Who runs the workload: a name or number of the manifest, looked up in the guest's own /etc/passwd and /etc/group as container engines
//! do. Changes nothing.

use std::io::{self, Read as _};
use std::path::Path;

use common::manifest::UserName;

/// The user that a workload runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// The user's number.
    pub(crate) uid: u32,
    /// The number of its own group.
    pub(crate) gid: u32,
    /// The numbers of its other groups.
    pub(crate) groups: Vec<u32>,
    /// Its home, where the image knows it.
    pub(crate) home: Option<String>,
}

/// A user that the image does not know.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// No such user.
    #[error("The user `{name}` is not in /etc/passwd of the image")]
    NoUser {
        /// The name.
        name: String,
    },
    /// No such group.
    #[error("The group `{name}` is not in /etc/group of the image")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// One of the files is there and cannot be read.
    #[error("Cannot read `{path}` of the image")]
    Read {
        /// The file.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// How much of either file is read, in bytes. Images with thousands of users have a tenth of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The most groups of one user: `NGROUPS_MAX` of Linux (include/uapi/linux/limits.h).
const MAX_GROUPS: usize = 65_536;

/// Looks a user up in the files of this machine.
pub(crate) fn find(name: UserName<'_>) -> Result<User, UserError> {
    resolve(name, &read(PASSWD)?, &read(GROUP)?)
}

/// The text of a file. One that is not there is empty: an image may do with numbers alone.
fn read(path: &'static str) -> Result<String, UserError> {
    let read = || {
        let mut bytes = Vec::new();
        let file = fs_err::File::open(Path::new(path))?;
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Err(error) if error_is_absence(&error) => Ok(String::new()),
        Err(source) => Err(UserError::Read { path, source }),
        Ok(text) => Ok(text),
    }
}

fn error_is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The user in the texts of passwd(5) and group(5). A number that they do not have is good: it has group 0 unless one is named.
fn resolve(name: UserName<'_>, passwd: &str, group: &str) -> Result<User, UserError> {
    let known = passwd
        .lines()
        .filter_map(Account::parse)
        .find(|account| account.name == name.user)
        .or_else(|| {
            let uid: u32 = name.user.parse().ok()?;
            passwd
                .lines()
                .filter_map(Account::parse)
                .find(|account| account.uid == uid)
        });
    let mut user = match (&known, name.user.parse()) {
        (Some(account), _) => User {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: Some(account.home.to_owned()).filter(|home| !home.is_empty()),
        },
        (None, Ok(uid)) => User {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: None,
        },
        (None, Err(_)) => {
            return Err(UserError::NoUser {
                name: name.user.to_owned(),
            });
        }
    };
    let groups = || group.lines().filter_map(Group::parse);
    match (name.group, known) {
        // A group that is named is the only one, as container engines have it.
        (Some(wanted), _) => {
            user.gid = groups()
                .find(|group| group.name == wanted)
                .map(|group| group.gid)
                .or_else(|| wanted.parse().ok())
                .ok_or_else(|| UserError::NoGroup {
                    name: wanted.to_owned(),
                })?;
        }
        (None, Some(account)) => {
            let member = |group: &Group<'_>| {
                group
                    .members
                    .split(',')
                    .any(|name| name.trim() == account.name)
            };
            user.groups = groups()
                .filter(member)
                .map(|group| group.gid)
                .take(MAX_GROUPS)
                .collect();
        }
        (None, None) => {}
    }
    Ok(user)
}

/// A line of passwd(5): `name:password:UID:GID:GECOS:directory:shell`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        Some(Self {
            name: fields.next()?,
            uid: fields.nth(1)?.trim().parse().ok()?,
            gid: fields.next()?.trim().parse().ok()?,
            home: fields.nth(1).unwrap_or_default(),
        })
    }
}

/// A line of group(5): `name:password:GID:members`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        Some(Self {
            name: fields.next()?,
            gid: fields.nth(1)?.trim().parse().ok()?,
            members: fields.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x:one:1::/:\n\
        web:x:101:102:web server:/srv/web:/sbin/nologin\nbare:x:7:8\nhomeless:x:9:9:::\n1000:x:55:55::/odd:\n";
    const GROUP: &str =
        "root:x:0:\nweb:x:102:\ntls:x:200:other, web\nlog:x:201:web\nbad:x:y:web\nshort\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: Some(home.to_owned()).filter(|home| !home.is_empty()),
        }
    }

    #[test]
    fn users_are_found_as_container_engines_find_them() {
        let table = [
            ("root", None, user(0, 0, &[], "/root")),
            ("0", None, user(0, 0, &[], "/root")),
            ("web", None, user(101, 102, &[200, 201], "/srv/web")),
            ("101", None, user(101, 102, &[200, 201], "/srv/web")),
            ("web", Some("tls"), user(101, 200, &[], "/srv/web")),
            ("web", Some("77"), user(101, 77, &[], "/srv/web")),
            ("4711", None, user(4711, 0, &[], "")),
            ("4711", Some("4712"), user(4711, 4712, &[], "")),
            ("bare", None, user(7, 8, &[], "")),
            ("homeless", None, user(9, 9, &[], "")),
            // A name that looks like a number is still a name.
            ("1000", None, user(55, 55, &[], "/odd")),
        ];
        for (name, group, expected) in table {
            let found = resolve(UserName { user: name, group }, PASSWD, GROUP).unwrap();
            assert_eq!(found, expected, "{name}:{group:?}");
        }
    }

    #[test]
    fn the_unknown_is_told() {
        let table = [
            (
                "nobody",
                None,
                "The user `nobody` is not in /etc/passwd of the image",
            ),
            (
                "broken",
                None,
                "The user `broken` is not in /etc/passwd of the image",
            ),
            (
                "web",
                Some("bad"),
                "The group `bad` is not in /etc/group of the image",
            ),
        ];
        for (user, group, sentence) in table {
            let error = resolve(UserName { user, group }, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.to_string(), sentence);
        }
        let number = UserName {
            user: "5",
            group: None,
        };
        assert_eq!(resolve(number, "", "").unwrap(), user(5, 0, &[], ""));
    }
}
