//! One build of a kernel: configure, check the configuration, compile, strip, publish. It takes whatever source it is
//! given, and it pins everything in the environment that could leak into the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use fs_err as fs;

use super::fragment::{Dropped, Fragment};
use super::source::Source;
use super::{IMAGE, Variant};
use crate::{cache, printer, process};

/// Between two lines of progress: often enough to see life, seldom enough for a CI log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);
/// What the kernel says when and by whom it was built: always the same, or no two builds would be.
const BUILD_TIME: &str = "Thu Jan  1 00:00:00 UTC 1970";
const BUILD_IDENTITY: &str = "volant";
/// The environment variables that the build may see.
const PASSED_VARIABLES: [&str; 3] = ["HOME", "PATH", "TMPDIR"];
/// How many dependencies of a dropped option are shown.
const SHOWN_DEPENDENCIES: usize = 4;

/// What to build, from what, and where to.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) variant: Variant,
    pub(crate) fragment: &'a Fragment,
    pub(crate) source: &'a Source,
    /// Where the source and the object files go.
    pub(crate) work: &'a Path,
    /// Where the finished kernel goes, in one step.
    pub(crate) home: &'a Path,
    /// Held by everything that writes to `work`.
    pub(crate) lock: &'a cache::Lock,
}

/// Builds the kernel and publishes it.
pub(crate) fn build(plan: &Plan<'_>) -> Result<()> {
    let log = cache::directory("logs")?.join(format!("kernel-{}.log", plan.variant.name()));
    fs::write(&log, "")?;
    fs::create_dir_all(plan.work)?;
    let (tree, version) = plan.source.unpack(plan.work, &log)?;
    let objects = plan.work.join(plan.variant.name());
    fs::create_dir_all(&objects)?;
    let make = Make {
        tree: &tree,
        objects: &objects,
        log: &log,
    };
    configure(&make, plan.fragment, &version)?;
    compile(&make, plan, &version)?;
    publish(&make, plan.home, &version)
}

/// The kernel's own build system, aimed at one tree and one folder of object files.
#[derive(Debug)]
struct Make<'a> {
    tree: &'a Path,
    objects: &'a Path,
    log: &'a Path,
}

impl Make<'_> {
    fn command(&self, target: &str) -> Command {
        let mut command = pinned("make");
        command
            .arg("-C")
            .arg(self.tree)
            .arg(format!("O={}", self.objects.display()))
            .arg("ARCH=x86_64")
            .arg(target);
        command
    }
}

/// A program that sees nothing of this machine's settings.
fn pinned(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command.envs(
        PASSED_VARIABLES
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", "0");
    command
        .env("KBUILD_BUILD_TIMESTAMP", BUILD_TIME)
        .env("KBUILD_BUILD_VERSION", "1");
    command
        .env("KBUILD_BUILD_USER", BUILD_IDENTITY)
        .env("KBUILD_BUILD_HOST", BUILD_IDENTITY);
    command
}

/// Lets the kernel's tool resolve our options, everything else off, and refuses what it made if an option got lost.
fn configure(make: &Make<'_>, fragment: &Fragment, version: &str) -> Result<()> {
    let request = make.objects.join("request.config");
    fs::write(&request, fragment.render())?;
    let mut command = make.command("allnoconfig");
    command.env("KCONFIG_ALLCONFIG", &request);
    process::logged(&mut command, make.log, |_| ())?;
    let dropped = fragment.dropped_in(&fs::read_to_string(make.objects.join(".config"))?);
    if dropped.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = dropped
        .iter()
        .map(|dropped| explain(make.tree, dropped))
        .collect::<Result<_>>()?;
    bail!(
        "The configuration of Linux {version} does not have what ours asks for:\n  {}",
        reasons.join("\n  ")
    );
}

/// Says in one line what happened to an option, with a hint taken from the kernel's own description of it.
fn explain(tree: &Path, dropped: &Dropped) -> Result<String> {
    let Dropped {
        option,
        wanted,
        got,
    } = dropped;
    let became = format!("`{option}={wanted}` became `{got}`");
    let name = option.strip_prefix("CONFIG_").unwrap_or(option);
    let Some(definition) = definition(tree, name)? else {
        return Ok(format!("{became}: this kernel has no option of that name"));
    };
    let dependencies: Vec<&str> = dependencies(&definition, name);
    if dependencies.is_empty() {
        Ok(format!(
            "{became}: another option selects it, or it is not for this machine"
        ))
    } else {
        Ok(format!(
            "{became}: it depends on {}",
            dependencies.join(", and on ")
        ))
    }
}

/// Finds the `Kconfig` file that defines an option, and returns its content.
fn definition(tree: &Path, name: &str) -> Result<Option<String>> {
    let mut grep = Command::new("grep");
    grep.args([
        "--recursive",
        "--files-with-matches",
        "--include=Kconfig*",
        "--extended-regexp",
        "--max-count=1",
    ]);
    grep.arg(format!("^(menu)?config {name}$")).arg(tree);
    let output = grep.output()?;
    let found = String::from_utf8_lossy(&output.stdout);
    found
        .lines()
        .next()
        .map(|file| Ok(fs::read_to_string(file)?))
        .transpose()
}

/// Reads the conditions of one option out of a `Kconfig` file.
fn dependencies<'a>(kconfig: &'a str, name: &str) -> Vec<&'a str> {
    let heading = |line: &str| {
        line.strip_prefix("menu")
            .unwrap_or(line)
            .strip_prefix("config ")
            .map(str::to_owned)
    };
    kconfig
        .lines()
        .skip_while(|line| heading(line).is_none_or(|found| found != name))
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with(char::is_whitespace))
        .filter_map(|line| line.trim().strip_prefix("depends on "))
        .take(SHOWN_DEPENDENCIES)
        .collect()
}

fn compile(make: &Make<'_>, plan: &Plan<'_>, version: &str) -> Result<()> {
    let variant = plan.variant;
    let cores = std::thread::available_parallelism()?.get();
    let subject = format!("building {version} ({}) on {cores} cores", variant.name());
    printer::progress(
        "kernel",
        &format!("{subject}; two idle cores take about 7 minutes"),
    );
    let mut next = PROGRESS_INTERVAL;
    let mut command = make.command(IMAGE);
    command.arg(format!("--jobs={cores}"));
    process::logged_with(plan.lock.as_input()?, &mut command, make.log, |elapsed| {
        if elapsed >= next {
            next += PROGRESS_INTERVAL;
            // The last step, linking, takes a while; and it is not done before it is done.
            let percent = (compiled(make.log) * 100 / expected_steps(variant)).min(99);
            printer::progress(
                "kernel",
                &format!("{subject}: {} s, {percent} %", elapsed.as_secs()),
            );
        }
    })
}

/// How many lines a whole build logs, for the percentage only; a newer kernel may differ by a little.
const fn expected_steps(variant: Variant) -> usize {
    match variant {
        Variant::Guest => 2040,
        Variant::Lab => 2230,
    }
}

fn compiled(log: &Path) -> usize {
    fs::read(log).map_or(0, |log| {
        log.split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"  "))
            .count()
    })
}

/// Strips the image and moves it, with its configuration and version, to where it is looked for.
fn publish(make: &Make<'_>, home: &Path, version: &str) -> Result<()> {
    let mut partial: PathBuf = home.to_owned();
    partial.set_extension("part");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let mut strip = pinned("strip");
    strip
        .arg("--strip-all")
        .arg("-o")
        .arg(partial.join(IMAGE))
        .arg(make.objects.join(IMAGE));
    process::logged(&mut strip, make.log, |_| ())?;
    fs::copy(make.objects.join(".config"), partial.join("config"))?;
    fs::write(partial.join("version"), format!("{version}\n"))?;
    cache::publish(&partial, home)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KCONFIG: &str = "config FIRST\n\tbool \"First\"\n\tdepends on A\n\n\thelp\n\t  Text.\n\nmenuconfig SECOND\n\tbool\n\
                           \tdepends on B && C\n\tdepends on !D\n\nif SECOND\n\nconfig THIRD\n\tbool\n\nendif\n";

    #[test]
    fn the_conditions_of_an_option_are_found() {
        assert_eq!(dependencies(KCONFIG, "FIRST"), ["A"]);
        assert_eq!(dependencies(KCONFIG, "SECOND"), ["B && C", "!D"]);
        assert!(dependencies(KCONFIG, "THIRD").is_empty());
        assert!(dependencies(KCONFIG, "FOURTH").is_empty());
    }

    #[test]
    fn a_dropped_option_is_explained() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("net")).unwrap();
        fs::write(tree.path().join("net/Kconfig"), KCONFIG).unwrap();
        let explain = |option: &str| {
            let dropped = Dropped {
                option: option.to_owned(),
                wanted: "y".to_owned(),
                got: "n".to_owned(),
            };
            explain(tree.path(), &dropped).unwrap()
        };
        assert_eq!(
            explain("CONFIG_SECOND"),
            "`CONFIG_SECOND=y` became `n`: it depends on B && C, and on !D"
        );
        assert_eq!(
            explain("CONFIG_FOURTH"),
            "`CONFIG_FOURTH=y` became `n`: this kernel has no option of that name"
        );
        assert!(explain("CONFIG_THIRD").contains("another option"));
    }

    #[test]
    fn the_build_sees_no_settings_of_the_machine() {
        let names: Vec<String> = pinned("make")
            .get_envs()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        assert!(
            names.iter().any(|name| name == "PATH")
                && !names.iter().any(|name| name.starts_with("CARGO"))
        );
    }

    #[test]
    fn compiled_files_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(
            &log,
            "+ make\nmake: Entering\n  CC      a.o\n  AR      b.a\n",
        )
        .unwrap();
        assert_eq!(compiled(&log), 2);
        assert_eq!(compiled(&directory.path().join("missing")), 0);
    }
}
