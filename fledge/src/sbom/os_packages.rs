//! The databases of package managers: dpkg's status, also in the single files of distroless images, and apk's.

use super::os_release::System;
use super::purl::purl;
use super::{Package, Packages, SbomError, is_plausible, text};
use crate::tree::Tree;

/// Where dpkg writes down what is installed (dpkg(1)).
const DPKG_STATUS: &str = "var/lib/dpkg/status";

/// Where distroless images have one file for each package, in the same format.
const DPKG_STATUS_DIRECTORY: &[u8] = b"var/lib/dpkg/status.d/";

/// Where apk does (apk-tools, `src/database.c`); the second one since version 3.
const APK_INSTALLED: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Reads all that there are.
pub(super) fn read(
    tree: &Tree,
    system: Option<&System>,
    packages: &mut Packages,
) -> Result<(), SbomError> {
    if let Some(status) = text(tree, DPKG_STATUS, packages)? {
        add_all(DPKG_STATUS, &status, packages, |stanza| {
            dpkg(stanza, system, Listed::Database)
        });
    }
    let single: Vec<String> = tree
        .iter()
        .filter(|item| item.path.starts_with(DPKG_STATUS_DIRECTORY))
        .filter_map(|item| String::from_utf8(item.path.to_vec()).ok())
        // Lists of files lie beside the packages.
        .filter(|path| !path.ends_with(".md5sums"))
        .collect();
    for path in single {
        if let Some(status) = text(tree, &path, packages)? {
            add_all(&path, &status, packages, |stanza| {
                dpkg(stanza, system, Listed::Alone)
            });
        }
    }
    for path in APK_INSTALLED {
        if let Some(installed) = text(tree, path, packages)? {
            add_all(path, &installed, packages, |stanza| apk(stanza, system));
            break;
        }
    }
    Ok(())
}

/// What a stanza is.
enum Stanza {
    Package(Package),
    /// Such as one that was removed, but not its configuration.
    NotInstalled,
    Broken,
}

/// How a stanza of dpkg's says that the package is there.
#[derive(Clone, Copy)]
enum Listed {
    /// By its field `Status`.
    Database,
    /// By having a file.
    Alone,
}

fn add_all(path: &str, text: &str, packages: &mut Packages, parse: impl Fn(&str) -> Stanza) {
    let mut broken = 0_u32;
    for stanza in text.split("\n\n") {
        if stanza.trim().is_empty() {
            continue;
        }
        match parse(stanza) {
            Stanza::Package(package) => packages.add(package, None),
            Stanza::NotInstalled => {}
            Stanza::Broken => broken = broken.saturating_add(1),
        }
    }
    if broken > 0 {
        packages.warn(format!(
            "Entries in `/{}` cannot be understood and are left out: {broken}",
            path.escape_debug()
        ));
    }
}

/// The value of a field in a stanza, up to the end of its line.
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        Some(value.trim()).filter(|value| is_plausible(value))
    })
}

fn dpkg(stanza: &str, system: Option<&System>, listed: Listed) -> Stanza {
    let (Some(name), Some(version)) = (field(stanza, "Package"), field(stanza, "Version")) else {
        return Stanza::Broken;
    };
    if matches!(listed, Listed::Database) {
        // The third word is the state: `install ok installed` (dpkg-query(1)).
        let state = field(stanza, "Status").and_then(|status| status.split(' ').nth(2));
        if state != Some("installed") {
            return Stanza::NotInstalled;
        }
    }
    // `Source: name (version)`, where they differ from the package's: what security trackers know.
    let source = field(stanza, "Source").map(|source| source.replace(" (", "@").replace(')', ""));
    let distro = system.map(System::distro);
    let namespace = system.map_or("debian", |system| &system.id);
    let qualifiers = [
        ("arch", field(stanza, "Architecture")),
        ("distro", distro.as_deref()),
        ("upstream", source.as_deref()),
    ];
    Stanza::Package(Package {
        purl: purl(
            "deb",
            &format!("{namespace}/{name}"),
            Some(version),
            &qualifiers,
        ),
        name: name.to_owned(),
        version: Some(version.to_owned()),
        licence: None,
    })
}

/// One-letter fields, as apk's own documentation (apk-v2(5)) has them: package, version, architecture, licence, origin.
fn apk(stanza: &str, system: Option<&System>) -> Stanza {
    let (Some(name), Some(version)) = (field(stanza, "P"), field(stanza, "V")) else {
        return Stanza::Broken;
    };
    let distro = system.map(System::distro);
    let namespace = system.map_or("alpine", |system| &system.id);
    let origin = field(stanza, "o").filter(|origin| *origin != name);
    let qualifiers = [
        ("arch", field(stanza, "A")),
        ("distro", distro.as_deref()),
        ("upstream", origin),
    ];
    Stanza::Package(Package {
        purl: purl(
            "apk",
            &format!("{namespace}/{name}"),
            Some(version),
            &qualifiers,
        ),
        name: name.to_owned(),
        version: Some(version.to_owned()),
        licence: field(stanza, "L").map(str::to_owned),
    })
}
