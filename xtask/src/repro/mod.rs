//! `cargo xtask repro`: every strategy and format, built by two users in two folders with other umasks, time zones, clocks, file
//! times and numbers of processors, gives the same files to the last bit; mapped files under every usual umask. That the five programs themselves are reproducible is not
//! claimed.

mod cases;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::tally::Tally;
use crate::{digest_file, dist, packages, printer, process};
use cases::{Case, Common};

/// The user and the group `nobody` of Debian; any that own nothing would do.
const NOBODY: u32 = 65_534;
/// When the files of the second build were changed last: decades before those of the first.
const OLD: Duration = Duration::from_secs(1_000_000_000);
/// How far ahead the clock of the second build is.
const CLOCK: &str = "+3650d";

/// How one of the two builds differs from the other.
struct Surroundings {
    folder: PathBuf,
    umask: u32,
    time_zone: &'static str,
    /// Whether there is one processor only, and another time.
    odd: bool,
    /// The user that builds, if it is another one than ours.
    user: Option<u32>,
}

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let mut tally = Tally::default();
    check(&mut tally)?;
    printer::result(&tally.to_string());
    Ok(())
}

/// Builds every case at least twice and compares.
///
/// # Errors
/// When two builds differ, or one fails.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    packages::ensure(packages::REPRO)?;
    let work = tempfile::Builder::new()
        .prefix("volant-repro-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("No working directory")?;
    let common = Common::prepare(&dist::build()?, work.path())?;
    if !packages::is_root() {
        tally.skip(
            "the builds by a second user",
            "only root can act as another user; both builds are by this one",
        );
    }
    for case in Case::ALL {
        let folder = work.path().join(case.name);
        match case.unavailable(&common) {
            Some(why) => tally.skip(&format!("two builds of {}", case.name), &why),
            None => match compare(&case, &common, &folder) {
                Ok(digest) => {
                    printer::result(&format!("{}: sha256:{digest} each time", case.name));
                    tally.passed += 1;
                }
                Err(error) => {
                    return Err(
                        error.context(format!("its files are in `{}`", work.keep().display()))
                    );
                }
            },
        }
    }
    Ok(())
}

/// Returns the digest that all artifacts have; the files beside them are compared too.
fn compare(case: &Case, common: &Common, folder: &Path) -> Result<String> {
    let plain = |name: &str, umask| Surroundings {
        folder: folder.join(name),
        umask,
        time_zone: "UTC",
        odd: false,
        user: None,
    };
    let mut builds = vec![plain("one", 0o022)];
    if case.is_mapped() {
        builds.extend([plain("two", 0o002), plain("three", 0o027)]);
    }
    builds.push(Surroundings {
        folder: folder.join("another/and deeper"),
        umask: 0o077,
        time_zone: "Pacific/Kiritimati",
        odd: true,
        user: (packages::is_root() && case.by_any_user).then_some(NOBODY),
    });
    let mut results = Vec::new();
    for surroundings in &builds {
        results.push(surroundings.build(case, common)?);
    }
    let (one, others) = results.split_first().context("Nothing was built")?;
    for another in others {
        compare_files(case, one, another)?;
    }
    let artifact = one.iter().find(|(name, _)| name == cases::ARTIFACT);
    Ok(artifact.context("Nothing was built")?.1.clone())
}

/// Compares names and digests of what two builds made.
fn compare_files(
    case: &Case,
    one: &[(String, String)],
    another: &[(String, String)],
) -> Result<()> {
    for (left, right) in one.iter().zip(another) {
        if left != right {
            bail!(
                "Two builds of {} differ in `{}`: {} and {}",
                case.name,
                left.0,
                left.1,
                right.1
            );
        }
    }
    anyhow::ensure!(
        one.len() == another.len(),
        "Two builds of {} made other files",
        case.name
    );
    Ok(())
}

impl Surroundings {
    /// Returns the names and digests of what was built.
    fn build(&self, case: &Case, common: &Common) -> Result<Vec<(String, String)>> {
        let project = self.folder.join("project");
        common.lay_out(case, &project, self.umask)?;
        // fledge takes the agent beside itself, and another user may not reach our target folder.
        let tools = self.folder.join("bin");
        fs::create_dir_all(&tools)?;
        for program in [
            common.dist.join("fledge"),
            common.dist.join("kestrel"),
            common.busybox.clone(),
        ] {
            fs::copy(
                &program,
                tools.join(program.file_name().unwrap_or_default()),
            )?;
        }
        if let Some(user) = self.user {
            hand_over(&self.folder, user)?;
        }
        let mut command = self.shell();
        command
            .arg(format!("umask {:03o} && exec \"$@\"", self.umask))
            .arg("sh");
        if self.odd {
            command.args(["taskset", "--cpu-list", "0", "faketime", "-f", CLOCK]);
        }
        command
            .arg(tools.join("fledge"))
            .args(case.arguments)
            .args(["--output", cases::ARTIFACT])
            .current_dir(&project)
            .env("HOME", &self.folder)
            .env("TZ", self.time_zone)
            // What measures how long something takes must not jump.
            .env("DONT_FAKE_MONOTONIC", "1")
            .env_remove("SOURCE_DATE_EPOCH");
        if case.with_busybox {
            command.arg("--busybox").arg(tools.join("busybox"));
        }
        process::captured(&mut command)
            .with_context(|| format!("fledge could not build {}", case.name))?;
        let mut built = Vec::new();
        for entry in fs::read_dir(&project)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(cases::ARTIFACT) {
                built.push((name, digest_file::sha256_hex(&entry.path())?));
            }
        }
        built.sort();
        Ok(built)
    }

    /// A shell of the user that builds, without its script.
    fn shell(&self) -> Command {
        let mut command = match self.user {
            None => Command::new("sh"),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={user}"))
                    .args(["--clear-groups", "sh"]);
                command
            }
        };
        command.arg("-c");
        command
    }
}

/// Gives a folder with all that is in it to a user, with other times and without rights for anybody else.
fn hand_over(path: &Path, user: u32) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            hand_over(&entry?.path(), user)?;
        }
    }
    let mode = metadata.permissions().mode() & 0o700;
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    fs::File::open(path)?
        .file()
        .set_modified(SystemTime::UNIX_EPOCH + OLD)?;
    std::os::unix::fs::chown(path, Some(user), Some(user))
        .with_context(|| format!("Could not give `{}` away", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_the_users_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("folder/file");
        fs::create_dir(directory.path().join("folder")).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Giving to oneself needs no rights.
        hand_over(directory.path(), nix::unistd::geteuid().as_raw()).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
        assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH + OLD);
    }

    #[test]
    fn a_second_user_gets_a_shell_of_its_own() {
        let surroundings = |user| Surroundings {
            folder: PathBuf::from("/"),
            umask: 0o077,
            time_zone: "UTC",
            odd: false,
            user,
        };
        assert_eq!(surroundings(None).shell().get_program(), "sh");
        let shell = surroundings(Some(NOBODY)).shell();
        assert_eq!(shell.get_program(), "setpriv");
        assert!(shell.get_args().any(|word| word == "--reuid=65534"));
    }
}
