//! `cargo xtask dist`: the five programs as users get them, side by side in `target/dist`, and the promises about them
//! that a compiler does not check: the guest's are static and small, and no fake of a test is in any of them. It packs and
//! uploads nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::packages::{self, Package, Probe};
use crate::{elf, printer, process, tidy, workspace};

/// What runs on the host.
const HOST_PROGRAMS: &[&str] = &["fledge", "volantd", "volar"];
/// What runs in the guest: static, and each byte is loaded at every boot.
const GUEST_PROGRAMS: &[&str] = &["kestrel", "hello"];
/// The promise of the guest agent's size, stripped.
const MAX_KESTREL_BYTES: u64 = 3_000_000;
/// Named, so that RUSTFLAGS do not reach build scripts and macros, which cannot be static.
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Static, and at a fixed address: there is nothing in the guest that could relocate it.
const GUEST_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Characters of a name that is not found in a program by chance.
const MIN_TELLING_NAME: usize = 7;

/// What compiling the programs needs beside Rust; a linker is there, or xtask itself would not be.
pub(crate) const BUILD: &[Package] = &[
    Package {
        name: "gcc",
        why: "compiling SQLite and linking Rust programs",
        probe: Probe::Command("gcc"),
    },
    Package {
        name: "libc6-dev",
        why: "linking static programs",
        probe: Probe::File("/usr/include/stdio.h"),
    },
];

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let directory = build()?;
    for program in HOST_PROGRAMS.iter().chain(GUEST_PROGRAMS) {
        let path = directory.join(program);
        let bytes = fs::metadata(&path)?.len();
        printer::result(&format!("{bytes:>10} bytes  {}", path.display()));
    }
    Ok(())
}

/// Builds the five programs, checks them, and returns the folder that holds them.
///
/// # Errors
/// When one does not build, or breaks a promise: kestrel too large, a guest program dynamic, a fake in a release.
pub(crate) fn build() -> Result<PathBuf> {
    packages::ensure(BUILD)?;
    let target = workspace::metadata()?.target_directory;
    build_host(&target)?;
    build_guest(&target)?;
    let directory = target.join("dist");
    fs::create_dir_all(&directory)?;
    for program in HOST_PROGRAMS {
        place(&target.join("release").join(program), &directory)?;
    }
    for program in GUEST_PROGRAMS {
        let built = guest_target(&target)
            .join(GUEST_TARGET)
            .join("guest")
            .join(program);
        place(&built, &directory)?;
    }
    check(&directory)?;
    Ok(directory)
}

/// Builds the programs of the host into `target`'s folder `release`, all at once: one of them alone would have other features, and
/// cargo would build everything anew.
pub(crate) fn build_host(target: &Path) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["build", "--release", "--locked"])
        .args(HOST_PROGRAMS.iter().flat_map(|name| ["--package", name]));
    logged(&mut command, target, "the host's programs")
}

fn build_guest(target: &Path) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args(["build", "--profile", "guest", "--locked"])
        .args(["--target", GUEST_TARGET])
        .args(GUEST_PROGRAMS.iter().flat_map(|name| ["--package", name]))
        .env("CARGO_TARGET_DIR", guest_target(target))
        .env("RUSTFLAGS", GUEST_FLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    logged(&mut command, target, "the guest's programs")
}

/// A target folder of its own: other flags in the same one would have cargo build everything anew, again and again.
fn guest_target(target: &Path) -> PathBuf {
    target.join("static")
}

fn logged(command: &mut Command, target: &Path, subject: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    printer::progress("dist", &format!("building {subject}"));
    process::logged(command, &target.join("dist.log"), |_| ())
        .with_context(|| format!("Could not build {subject}"))
}

/// Copies a program in such a way that one that is running from there is left alone.
fn place(built: &Path, directory: &Path) -> Result<()> {
    let name = built.file_name().context("A program has a name")?;
    let destination = directory.join(name);
    let fresh = directory.join(format!(".{}.new", name.to_string_lossy()));
    fs::copy(built, &fresh)?;
    fs::rename(&fresh, &destination)?;
    Ok(())
}

fn check(directory: &Path) -> Result<()> {
    let fakes = tidy::names_of_fakes()?;
    for program in HOST_PROGRAMS.iter().chain(GUEST_PROGRAMS) {
        let file = fs::read(directory.join(program))?;
        let guest = GUEST_PROGRAMS.contains(program);
        if let Some(problem) = problem(program, &file, guest, &fakes)? {
            bail!("{problem}");
        }
    }
    Ok(())
}

/// Says which promise a program breaks, if any.
fn problem(name: &str, file: &[u8], guest: bool, fakes: &[String]) -> Result<Option<String>> {
    let interpreter =
        elf::interpreter(file).with_context(|| format!("`{name}` is not a program"))?;
    if let Some(interpreter) = interpreter.filter(|_| guest) {
        return Ok(Some(format!(
            "`{name}` is dynamic (it asks for `{interpreter}`), and nothing in a guest could load it"
        )));
    }
    let bytes = u64::try_from(file.len())?;
    if name == "kestrel" && bytes > MAX_KESTREL_BYTES {
        return Ok(Some(format!(
            "`kestrel` is {bytes} bytes large, and the budget is {MAX_KESTREL_BYTES}"
        )));
    }
    let fake = find_fake(file, fakes);
    Ok(fake.map(|fake| format!("`{name}` holds `{fake}`, which is for tests only")))
}

/// Looks for a type as symbols have it, with its length before it, and as its `Debug` prints it. All names begin alike,
/// so that one pass is enough.
fn find_fake<'names>(file: &[u8], fakes: &'names [String]) -> Option<&'names String> {
    let beginning = tidy::FAKE.as_bytes();
    let first = beginning.first()?;
    let places = file
        .iter()
        .enumerate()
        .filter(|(_, byte)| *byte == first)
        .filter_map(|(at, _)| file.split_at_checked(at))
        .filter(|(_, rest)| rest.starts_with(beginning));
    for (before, rest) in places {
        let found = fakes.iter().find(|name| {
            let telling = name.len() >= MIN_TELLING_NAME;
            let is_symbol = before.ends_with(name.len().to_string().as_bytes());
            rest.starts_with(name.as_bytes()) && (telling || is_symbol)
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest file that counts as a static program.
    fn program(bytes: usize) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(bytes.max(64), 0);
        file
    }

    #[test]
    fn the_budget_is_kestrels_alone() {
        let large = program(usize::try_from(MAX_KESTREL_BYTES).unwrap() + 1);
        let found = problem("kestrel", &large, true, &[]).unwrap().unwrap();
        assert!(
            found.contains("3000001") && found.contains("3000000"),
            "{found}"
        );
        assert_eq!(problem("volantd", &large, false, &[]).unwrap(), None);
        let fitting = program(usize::try_from(MAX_KESTREL_BYTES).unwrap());
        assert_eq!(problem("kestrel", &fitting, true, &[]).unwrap(), None);
    }

    #[test]
    fn dynamic_programs_are_for_the_host() {
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(
            problem("hello", &this, true, &[])
                .unwrap()
                .unwrap()
                .contains("is dynamic")
        );
        assert_eq!(problem("volar", &this, false, &[]).unwrap(), None);
    }

    #[test]
    fn fakes_are_found_wherever_they_are() {
        let fakes = ["FakeVmm".to_owned()];
        let mut file = program(100);
        assert_eq!(problem("volantd", &file, false, &fakes).unwrap(), None);
        file.extend_from_slice(b"FakeFake_FakeVmm");
        assert!(problem("volantd", &file, false, &fakes).unwrap().is_some());
        file.pop();
        assert_eq!(problem("volantd", &file, false, &fakes).unwrap(), None);
        let short = ["Fake".to_owned()];
        assert_eq!(problem("volantd", &file, false, &short).unwrap(), None);
        file.extend_from_slice(b"_ZN7volantd4Fake3new");
        assert!(problem("volantd", &file, false, &short).unwrap().is_some());
    }

    #[test]
    fn placing_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let built = directory.path().join("volar");
        let dist = directory.path().join("dist");
        fs::create_dir(&dist).unwrap();
        for content in ["old", "new"] {
            fs::write(&built, content).unwrap();
            place(&built, &dist).unwrap();
        }
        assert_eq!(fs::read_to_string(dist.join("volar")).unwrap(), "new");
        assert_eq!(fs::read_dir(&dist).unwrap().count(), 1);
    }
}
