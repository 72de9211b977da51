//! Would the workload start? Looks its entrypoint up in the finished tree, as the guest will. Changes nothing.

use std::io::{self, Read as _};

use common::manifest::{UserName, Workload};

use crate::image::elf::{self, Program};
use crate::tree::{Content, Kind, Tree, shown};

/// Where a program without `/` is looked for when the manifest sets no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of `/etc/passwd` and `/etc/group` is read, in bytes: as much as the agent in the guest reads.
const MAX_ACCOUNTS_BYTES: u64 = 1024 * 1024;

/// A workload that would not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It is not in the image.
    #[error("The entrypoint `{entrypoint}` is not in the image")]
    Missing {
        /// As the manifest names it.
        entrypoint: String,
    },
    /// It is a directory.
    #[error("The entrypoint `{entrypoint}` is not a file")]
    NotAFile {
        /// As the manifest names it.
        entrypoint: String,
    },
    /// It has no execute permission.
    #[error(
        "The entrypoint `{entrypoint}` is not executable: run chmod +x on its source, or map it below `/usr/bin`"
    )]
    NotExecutable {
        /// As the manifest names it.
        entrypoint: String,
    },
    /// It needs a loader that is not there.
    #[error(
        "The entrypoint `{entrypoint}` is dynamically linked and needs `{interpreter}`, which is not in the image: link it statically, or map its loader and libraries too"
    )]
    Dynamic {
        /// As the manifest names it.
        entrypoint: String,
        /// The loader.
        interpreter: String,
    },
    /// It is a script for a program that is not there.
    #[error(
        "The entrypoint `{entrypoint}` is a script for `{interpreter}`, which is not in the image"
    )]
    Script {
        /// As the manifest names it.
        entrypoint: String,
        /// What should run it.
        interpreter: String,
    },
    /// It is for another machine.
    #[error(
        "The entrypoint `{entrypoint}` is for another machine (ELF number {machine}), not for x86-64"
    )]
    Machine {
        /// As the manifest names it.
        entrypoint: String,
        /// As ELF numbers machines.
        machine: u16,
    },
    /// Nobody in the image is called like that.
    #[error(
        "The image has no {what} `{name}`: it is neither a number nor in `{path}`; name another `workload.user` in the manifest"
    )]
    Account {
        /// `user` or `group`.
        what: &'static str,
        /// As the manifest or the container image names it.
        name: String,
        /// Where it should be.
        path: &'static str,
    },
    /// A file cannot be read.
    #[error("Cannot read what lies at `{path}`")]
    Read {
        /// Its path in the guest.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Checks that the guest can start `workload`.
///
/// # Errors
/// Why it could not.
pub fn check(tree: &Tree, workload: &Workload) -> Result<(), WorkloadError> {
    if let Some(name) = workload.user_name() {
        check_user(tree, name)?;
    }
    check_entrypoint(tree, workload)
}

/// Checks that the guest will find the user and the group.
fn check_user(tree: &Tree, UserName { user, group }: UserName<'_>) -> Result<(), WorkloadError> {
    let wanted = [
        ("user", Some(user), "/etc/passwd"),
        ("group", group, "/etc/group"),
    ];
    for (what, name, path) in wanted {
        let Some(name) = name.filter(|name| name.parse::<u32>().is_err()) else {
            continue;
        };
        if !has_account(tree, path, name)? {
            let name = name.escape_debug().to_string();
            return Err(WorkloadError::Account { what, name, path });
        }
    }
    Ok(())
}

/// Whether passwd(5) or group(5) at `path` has a line for `name` with a number.
fn has_account(tree: &Tree, path: &str, name: &str) -> Result<bool, WorkloadError> {
    let Some((at, node)) = tree.resolve(path.as_bytes()) else {
        return Ok(false);
    };
    let Kind::File(content) = &node.kind else {
        return Ok(false);
    };
    let mut bytes = Vec::new();
    content
        .open()
        .and_then(|reader| reader.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes))
        .map_err(|source| WorkloadError::Read {
            path: shown(&at),
            source,
        })?;
    let text = String::from_utf8_lossy(&bytes);
    let is_it = |line: &str| {
        let mut fields = line.split(':');
        let is_named = fields.next() == Some(name);
        let number = fields.nth(1).map(|number| number.trim().parse::<u32>());
        is_named && matches!(number, Some(Ok(_)))
    };
    Ok(text.lines().any(is_it))
}

fn check_entrypoint(tree: &Tree, workload: &Workload) -> Result<(), WorkloadError> {
    let program = workload
        .entrypoint
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    let entrypoint = program.escape_debug().to_string();
    let candidates: Vec<String> = if program.contains('/') {
        let workdir = workload.workdir.as_deref().unwrap_or("/");
        vec![if program.starts_with('/') {
            program.to_owned()
        } else {
            format!("{workdir}/{program}")
        }]
    } else {
        let path = workload
            .env
            .get("PATH")
            .map_or(DEFAULT_PATH, String::as_str);
        path.split(':')
            .map(|directory| format!("{directory}/{program}"))
            .collect()
    };
    let found = candidates
        .iter()
        .find_map(|path| tree.resolve(path.as_bytes()));
    let Some((path, node)) = found else {
        return Err(WorkloadError::Missing { entrypoint });
    };
    let Kind::File(content) = &node.kind else {
        return Err(WorkloadError::NotAFile { entrypoint });
    };
    if node.attributes.permissions & 0o111 == 0 {
        return Err(WorkloadError::NotExecutable { entrypoint });
    }
    let absent = |interpreter: &[u8]| !is_program(tree, interpreter);
    match inspect(&path, content)? {
        Program::Static { machine } | Program::Dynamic { machine, .. }
            if machine != elf::X86_64 =>
        {
            Err(WorkloadError::Machine {
                entrypoint,
                machine,
            })
        }
        Program::Dynamic { interpreter, .. } if absent(&interpreter) => {
            Err(WorkloadError::Dynamic {
                entrypoint,
                interpreter: text(&interpreter),
            })
        }
        Program::Script(interpreter) if absent(&interpreter) => Err(WorkloadError::Script {
            entrypoint,
            interpreter: text(&interpreter),
        }),
        Program::Static { .. } | Program::Dynamic { .. } | Program::Script(_) | Program::Other => {
            Ok(())
        }
    }
}

/// Programs that would not start for want of their loader, each with the loader's path.
///
/// # Errors
/// Where a file cannot be read.
pub fn without_loader(tree: &Tree) -> Result<Vec<(String, String)>, WorkloadError> {
    let mut found = Vec::new();
    for item in tree.iter() {
        let Kind::File(content) = &item.node.kind else {
            continue;
        };
        if item.node.attributes.permissions & 0o111 == 0 {
            continue;
        }
        if let Program::Dynamic { interpreter, .. } = inspect(item.path, content)?
            && !is_program(tree, &interpreter)
        {
            found.push((shown(item.path), text(&interpreter)));
        }
    }
    Ok(found)
}

fn is_program(tree: &Tree, path: &[u8]) -> bool {
    let found = tree.resolve(path);
    found.is_some_and(|(_, node)| matches!(node.kind, Kind::File(_)))
}

fn inspect(path: &[u8], content: &Content) -> Result<Program, WorkloadError> {
    content
        .open()
        .and_then(|mut reader| elf::inspect(&mut reader))
        .map_err(|source| WorkloadError::Read {
            path: shown(path),
            source,
        })
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use common::build_spec::{ManifestTemplate, Output};

    use super::*;
    use crate::image::elf::tests::elf64;
    use crate::tree::{Node, Origin};

    fn tree(files: &[(&str, u32, &[u8])]) -> Tree {
        let mut tree = Tree::default();
        for (path, permissions, bytes) in files {
            let content = Content::Bytes(bytes.to_vec());
            tree.insert(
                &path.parse().unwrap(),
                Node::file(*permissions, content),
                Origin::File,
            )
            .unwrap();
        }
        tree
    }

    fn message(tree: &Tree, rest: &str) -> String {
        let text = format!("name = \"x\"\nversion = \"1\"\n[workload]\n{rest}");
        let manifest = ManifestTemplate::from_toml(&text)
            .unwrap()
            .manifest("/x", None, &Output::default())
            .unwrap();
        check(tree, &manifest.workload)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn users_are_numbers_or_in_the_image() {
        let program = elf64(1, b"");
        let with_accounts = tree(&[
            ("/app", 0o755, &program),
            (
                "/etc/passwd",
                0o644,
                b"root:x:0:0::/:/bin/sh\nweb:x:7:7::/:\nbroken:x:one:1::/:\n",
            ),
            ("/etc/group", 0o644, b"web:x:7:\ntls:x:8:web\n"),
        ]);
        let bare = tree(&[("/app", 0o755, &program)]);
        let none = |what: &str, name: &str, path: &str| {
            format!(
                "The image has no {what} `{name}`: it is neither a number nor in `{path}`; name another `workload.user` in the manifest"
            )
        };
        for (tree, user, expected) in [
            (&with_accounts, "web", String::new()),
            (&with_accounts, "web:tls", String::new()),
            (&with_accounts, "0", String::new()),
            (&with_accounts, "4711:4712", String::new()),
            (&bare, "4711", String::new()),
            (&with_accounts, "app", none("user", "app", "/etc/passwd")),
            (
                &with_accounts,
                "broken",
                none("user", "broken", "/etc/passwd"),
            ),
            (
                &with_accounts,
                "web:app",
                none("group", "app", "/etc/group"),
            ),
            (&bare, "root", none("user", "root", "/etc/passwd")),
        ] {
            let rest = format!("entrypoint = \"/app\"\nuser = \"{user}\"");
            assert_eq!(message(tree, &rest), expected, "{user}");
        }
    }

    #[test]
    fn entrypoints_are_found_as_the_guest_does() {
        let program = elf64(1, b"");
        let tree = tree(&[
            ("/usr/bin/app", 0o755, &program),
            ("/srv/run", 0o755, b"#!/usr/bin/app\n"),
        ]);
        for rest in [
            "entrypoint = \"/usr/bin/app\"",
            "entrypoint = [\"app\", \"-v\"]",
            "entrypoint = \"/srv/run\"",
            "entrypoint = \"./run\"\nworkdir = \"/srv\"",
            "entrypoint = \"run\"\nenv = { PATH = \"/bin:/srv\" }",
        ] {
            assert_eq!(message(&tree, rest), "", "{rest}");
        }
        for rest in [
            "entrypoint = \"/bin/app\"",
            "entrypoint = \"run\"",
            "entrypoint = \"./app\"",
        ] {
            assert!(
                message(&tree, rest).contains("is not in the image"),
                "{rest}"
            );
        }
    }

    #[test]
    fn what_would_not_start_is_refused() {
        let dynamic = elf64(3, b"/lib64/ld-linux-x86-64.so.2\0");
        let mut foreign = elf64(1, b"");
        foreign[18] = 183;
        let files: [(&str, u32, &[u8]); 5] = [
            ("/dynamic", 0o755, &dynamic),
            ("/foreign", 0o755, &foreign),
            ("/script", 0o755, b"#!/bin/sh"),
            ("/data", 0o644, b"x"),
            ("/dir/x", 0o644, b"x"),
        ];
        let without = tree(&files);
        for (entrypoint, expected) in [
            (
                "/dynamic",
                "needs `/lib64/ld-linux-x86-64.so.2`, which is not in the image",
            ),
            ("/foreign", "another machine (ELF number 183)"),
            ("/script", "a script for `/bin/sh`"),
            ("/data", "is not executable"),
            ("/dir", "is not a file"),
        ] {
            let message = message(&without, &format!("entrypoint = \"{entrypoint}\""));
            assert!(message.contains(expected), "{message}");
        }
        let warnings = without_loader(&without).unwrap();
        assert_eq!(
            warnings,
            [(
                "/dynamic".to_owned(),
                "/lib64/ld-linux-x86-64.so.2".to_owned()
            )]
        );
        let loader: (&str, u32, &[u8]) = ("/lib64/ld-linux-x86-64.so.2", 0o755, &elf64(1, b""));
        let with = tree(&[&files[..], &[loader]].concat());
        assert_eq!(message(&with, "entrypoint = \"/dynamic\""), "");
        assert_eq!(without_loader(&with).unwrap(), []);
    }
}
