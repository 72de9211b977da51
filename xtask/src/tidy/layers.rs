//! Which part of the sources may name which: the arrows of ARCHITECTURE.md, as a table. Tests are free. Paths are found by
//! their text and in `use` trees; a re-export under another name would go unnoticed.

use super::Finding;
use super::source::{RustFile, Tree, has_word};

/// What the files below some folders must not name.
struct Layer {
    /// Prefixes of paths; a file is in the layer if one fits.
    files: &'static [&'static str],
    /// Within those, files that are free.
    except: &'static [&'static str],
    /// Paths of Rust that are out of bounds, with everything below them.
    forbids: &'static [&'static str],
    why: &'static str,
}

/// What reads or changes the world: the pure parts name none of it.
const WORLD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process::Child",
    "std::process::Command",
    "std::process::Stdio",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "fs_err",
    "nix",
    "reqwest",
    "tokio",
];

const LAYERS: &[Layer] = &[
    Layer {
        files: &["common/src/"],
        except: &[],
        forbids: WORLD,
        why: "`common` is plain data and pure functions",
    },
    Layer {
        files: &[
            "volantd/src/machine/state",
            "volantd/src/machine/requests",
            "volantd/src/machine/plan",
            "volantd/src/machine/health",
            "volantd/src/machine/lease",
            "volantd/src/machine/outcome",
            "volantd/src/machine/public",
        ],
        except: &[],
        forbids: WORLD,
        why: "the core of a machine is pure, so that a table can test it",
    },
    Layer {
        files: &["volantd/src/machine/"],
        except: &[],
        forbids: &[
            "axum",
            "cloud_hypervisor_client",
            "rusqlite",
            "crate::app",
            "crate::http",
            "crate::service",
            "crate::store",
            "crate::vmm",
        ],
        why: "a machine knows its surroundings by the traits in `machine::ports` alone",
    },
    Layer {
        files: &["volantd/src/service/"],
        except: &[],
        forbids: &[
            "axum",
            "cloud_hypervisor_client",
            "rusqlite",
            "crate::app",
            "crate::http",
            "crate::vmm",
        ],
        why: "the service knows neither who asks nor what runs a VM",
    },
    Layer {
        files: &["volantd/src/http/"],
        except: &[],
        forbids: &[
            "cloud_hypervisor_client",
            "rusqlite",
            "crate::app",
            "crate::net",
            "crate::store",
            "crate::vmm",
        ],
        why: "the HTTP layer decodes, asks the service, and encodes",
    },
    Layer {
        files: &[
            "volantd/src/agent/",
            "volantd/src/artifact/",
            "volantd/src/media/",
            "volantd/src/net/",
            "volantd/src/store/",
            "volantd/src/vmm/",
        ],
        except: &[],
        forbids: &["axum", "crate::app", "crate::http"],
        why: "what implements the traits does not know who uses it",
    },
    Layer {
        files: &["volantd/src/"],
        except: &["volantd/src/store"],
        forbids: &["rusqlite"],
        why: "only the store speaks SQL",
    },
    Layer {
        files: &["volantd/src/"],
        except: &["volantd/src/vmm/cloud_hypervisor"],
        forbids: &["cloud_hypervisor_client"],
        why: "its flaws are handled in one place",
    },
    Layer {
        files: &["kestrel/src/"],
        except: &["kestrel/src/sys"],
        forbids: &["libc"],
        why: "system calls go through `sys`, which tests replace",
    },
];

/// Checks every file against every layer that it is in.
pub(super) fn one_way(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let named = used_paths(&file);
        for layer in LAYERS.iter().filter(|layer| layer.holds(file.path)) {
            for path in layer.forbids {
                if named.iter().any(|name| is_below(name, path)) || has_path(&file.shipped, path) {
                    findings.push(Finding::new(
                        file.path,
                        format!("Names `{path}`, but {}", layer.why),
                    ));
                }
            }
        }
    }
    findings
}

impl Layer {
    fn holds(&self, path: &str) -> bool {
        let fits = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        fits(self.files) && !fits(self.except)
    }
}

fn is_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Finds a path written out. The name of a crate alone says nothing (a field may be called `nix`), so it needs its `::`.
fn has_path(code: &str, path: &str) -> bool {
    if path.contains("::") {
        return has_word(code, path);
    }
    let prefix = format!("{path}::");
    code.match_indices(&prefix).any(|(at, _)| {
        !code
            .get(..at)
            .and_then(|before| before.chars().next_back())
            .is_some_and(|before| super::source::is_name(before) || before == ':')
    })
}

/// The paths that a file's `use` declarations bring in, written out.
fn used_paths(file: &RustFile<'_>) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in file.shipped.match_indices("use ") {
        let before = file
            .shipped
            .get(..at)
            .and_then(|code| code.chars().next_back());
        if before.is_some_and(|before| !before.is_whitespace()) {
            continue;
        }
        let rest = file.shipped.get(at + "use ".len()..).unwrap_or_default();
        let tree: String = rest.chars().take_while(|next| *next != ';').collect();
        expand("", tree.trim(), &mut paths);
    }
    paths
}

/// Writes out `a::{b, c::{d, e as f}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    if let Some((head, group)) = tree.split_once('{') {
        let inside = group.rsplit_once('}').map_or(group, |(inside, _)| inside);
        let prefix = format!("{prefix}{}", head.trim());
        for branch in split_outside_braces(inside) {
            expand(&prefix, branch.trim(), paths);
        }
        return;
    }
    let name = tree.split_whitespace().next().unwrap_or_default();
    if !name.is_empty() {
        let path = format!("{prefix}{name}");
        paths.push(path.trim_end_matches("::self").to_owned());
    }
}

fn split_outside_braces(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(move |character| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        character == ',' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let tree = Tree {
            files: vec![File::new(path, text.as_bytes().to_vec())],
        };
        one_way(&tree)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn use_trees_are_written_out() {
        let mut paths = Vec::new();
        expand("", "a::{self, b, c::{d, e as f}, g::*}", &mut paths);
        assert_eq!(paths, ["a", "a::b", "a::c::d", "a::c::e", "a::g::*"]);
        paths.clear();
        expand("", "a", &mut paths);
        expand("", "a::{\n    b,\n}", &mut paths);
        assert_eq!(paths, ["a", "a::b"]);
    }

    #[test]
    fn what_a_layer_may_not_name() {
        let broken = [
            ("common/src/name.rs", "use std::fs;"),
            ("common/src/name.rs", "use std::{fmt, fs::File};"),
            ("common/src/name.rs", "fn f() { std::env::var(x) }"),
            ("common/src/name.rs", "fn f() { tokio::spawn(x) }"),
            ("volantd/src/machine/plan.rs", "use tokio::time;"),
            ("volantd/src/machine/driver.rs", "use crate::{vmm::Qemu};"),
            ("volantd/src/http/vms.rs", "use rusqlite::Connection;"),
            ("volantd/src/store/mod.rs", "use crate::http::Problem;"),
            ("volantd/src/vmm/qemu.rs", "use cloud_hypervisor_client::X;"),
        ];
        for (path, text) in broken {
            assert!(!findings(path, text).is_empty(), "{path}: {text}");
        }
    }

    #[test]
    fn what_it_may() {
        let fine = [
            (
                "common/src/name.rs",
                "use std::net::Ipv4Addr; // no tokio::spawn",
            ),
            (
                "common/src/name.rs",
                "#[cfg(test)]\nmod tests { use std::fs; }",
            ),
            (
                "common/src/name.rs",
                "use crate::agent::tokio::X; use serde::{Serialize};",
            ),
            ("volantd/src/machine/driver.rs", "use tokio::sync::watch;"),
            ("volantd/src/store/mod.rs", "use rusqlite::Connection;"),
            ("volantd/src/app.rs", "use crate::{http, store, vmm};"),
            (
                "volantd/src/vmm/cloud_hypervisor/client.rs",
                "use cloud_hypervisor_client::X;",
            ),
            ("volar/src/main.rs", "use std::fs;"),
        ];
        for (path, text) in fine {
            assert_eq!(findings(path, text), [""; 0], "{path}: {text}");
        }
    }
}
