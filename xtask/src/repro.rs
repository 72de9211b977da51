//! `cargo xtask repro`: the same example, built by two users in two folders with other umasks, time zones and file times,
//! is the same file to the last bit. That the five programs themselves are reproducible is not claimed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use fs_err as fs;

use crate::examples::{Example, Ingredients};
use crate::tally::Tally;
use crate::{digest_file, dist, packages, printer, process};

/// The user and the group `nobody` of Debian; any that own nothing would do.
const NOBODY: u32 = 65_534;
const ARTIFACT: &str = "plugin.cpio.gz";
/// When the files of the second build were changed last: decades before those of the first.
const OLD: Duration = Duration::from_secs(1_000_000_000);

/// How one of the two builds differs from the other.
struct Surroundings {
    folder: PathBuf,
    /// In octal, for the shell.
    umask: &'static str,
    time_zone: &'static str,
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

/// Builds both examples twice and compares.
///
/// # Errors
/// When two builds differ, or one fails.
pub(crate) fn check(tally: &mut Tally) -> Result<()> {
    let dist = dist::build()?;
    if !packages::is_root() {
        tally.skip(
            "the build by a second user",
            "only root can act as another user; both builds are by this one",
        );
    }
    for example in [Example::Hello, Example::Caddy] {
        match example.ingredients(&dist) {
            Ok(ingredients) => {
                let digest = compare(&ingredients)?;
                printer::result(&format!("{}: sha256:{digest} twice", example.name()));
                tally.passed += 1;
            }
            Err(error) => tally.skip(
                &format!("two builds of examples/{}", example.name()),
                &format!("what it is built from cannot be had: {error:#}"),
            ),
        }
    }
    Ok(())
}

/// Returns the digest that both builds have.
fn compare(ingredients: &Ingredients) -> Result<String> {
    let work = tempfile::Builder::new()
        .prefix("volant-repro-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("No working directory")?;
    let builds = [
        Surroundings {
            folder: work.path().join("one"),
            umask: "022",
            time_zone: "UTC",
            user: None,
        },
        Surroundings {
            folder: work.path().join("another/and deeper"),
            umask: "077",
            time_zone: "Pacific/Kiritimati",
            user: packages::is_root().then_some(NOBODY),
        },
    ];
    let mut digests = Vec::new();
    for surroundings in &builds {
        let artifact = surroundings.build(ingredients)?;
        digests.push(digest_file::sha256_hex(&artifact)?);
    }
    if digests.windows(2).any(|pair| pair.first() != pair.last()) {
        bail!(
            "Two builds of examples/{} differ; they are kept in `{}`",
            ingredients.example.name(),
            work.keep().display()
        );
    }
    digests.pop().context("Nothing was built")
}

impl Surroundings {
    fn build(&self, ingredients: &Ingredients) -> Result<PathBuf> {
        let example = self.folder.join("example");
        ingredients.lay_out(&example)?;
        // fledge takes the agent beside itself, and another user may not reach our target folder.
        let tools = self.folder.join("bin");
        fs::create_dir_all(&tools)?;
        for program in ["fledge", "kestrel"] {
            fs::copy(ingredients.dist.join(program), tools.join(program))?;
        }
        let mut words = ingredients.build_arguments();
        if let Some(busybox) = &ingredients.busybox {
            let copy = tools.join("busybox");
            fs::copy(busybox, &copy)?;
            let original = busybox.display().to_string();
            for word in words.iter_mut().filter(|word| **word == original) {
                *word = copy.display().to_string();
            }
        }
        if let Some(user) = self.user {
            hand_over(&self.folder, user)?;
        }
        let mut command = self.shell();
        command
            .arg(format!("umask {} && exec \"$@\"", self.umask))
            .arg("sh")
            .arg(tools.join("fledge"))
            .args(&words)
            .current_dir(&example)
            .env("HOME", &self.folder)
            .env("TZ", self.time_zone)
            .env_remove("SOURCE_DATE_EPOCH");
        process::captured(&mut command).context("fledge could not build the example")?;
        Ok(example.join(ARTIFACT))
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
    let metadata = fs::metadata(path)?;
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
            umask: "077",
            time_zone: "UTC",
            user,
        };
        assert_eq!(surroundings(None).shell().get_program(), "sh");
        let shell = surroundings(Some(NOBODY)).shell();
        assert_eq!(shell.get_program(), "setpriv");
        assert!(shell.get_args().any(|word| word == "--reuid=65534"));
    }
}
