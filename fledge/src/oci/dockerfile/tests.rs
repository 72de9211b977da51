//! Builders that are scripts, and the real buildah where it is installed.

use super::super::command::tests::{ended, never, process_in, script};
use super::super::tests::{seen, whole};
use super::super::{Image, ImageError, Keyring, Loader};
use super::*;
use crate::fetch::Client;
use crate::ui::Verbosity;

struct Setup {
    directory: TempDir,
    request: Request,
}

impl Setup {
    fn new(dockerfile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Dockerfile");
        fs_err::write(&path, dockerfile).unwrap();
        fs_err::create_dir(directory.path().join("bin")).unwrap();
        let request = Request {
            dockerfile: path,
            context: directory.path().to_path_buf(),
            target: Some("last".to_owned()),
            build_args: [("A".to_owned(), "1 2".to_owned())].into(),
            time_s: 1_700_000_000,
        };
        Self { directory, request }
    }

    /// A builder that logs its arguments.
    fn builder(&self, name: &str, text: &str) {
        let log = self.directory.path().join("log");
        let text = format!(
            r#"echo "{name} $* $SOURCE_DATE_EPOCH" >> {}
{text}"#,
            log.display()
        );
        script(&self.directory.path().join("bin"), name, &text);
    }

    /// What was run, with the temporary directory called `ROOM` and the test's own `HERE`.
    fn log(&self) -> Vec<String> {
        let text = fs_err::read_to_string(self.directory.path().join("log")).unwrap();
        let here = self.directory.path().display().to_string();
        text.lines()
            .map(|line| {
                let line = line.replace(&here, "HERE");
                match line.split_once(TEMPORARY_PREFIX) {
                    Some((before, after)) => format!("{before}ROOM{}", &after[6..]),
                    None => line,
                }
            })
            .collect()
    }

    async fn run_with(
        &self,
        path: Option<&std::ffi::OsStr>,
        interrupted: watch::Receiver<bool>,
    ) -> Result<Image, ImageError> {
        let client = Client::new(never());
        let loader = Loader {
            client: &client,
            cache: self.directory.path().join("cache"),
            keyring: Keyring {
                files: Vec::new(),
                programs: Programs::in_path(path),
            },
            ui: &Ui::new(Verbosity::Quiet),
            interrupted,
        };
        let image = loader.build(&self.request, "Dockerfile").await;
        // Whatever comes out, the archive does not stay.
        let left = fs_err::read_dir(self.directory.path().join("cache"));
        assert_eq!(left.map_or(0, Iterator::count), 0);
        image
    }

    async fn run(&self) -> Result<Image, ImageError> {
        let bin = self.directory.path().join("bin");
        // `sh` and its friends are found by the system's default.
        self.run_with(Some(bin.as_os_str()), never()).await
    }
}

#[tokio::test]
async fn each_builder_is_asked_in_its_own_words() {
    let common = "--file=HERE/Dockerfile --target=last --build-arg=A=1 2 HERE 1700000000";
    let table: [(&str, &str, &[String]); 4] = [
        (
            "docker",
            "exit 0",
            &[format!(
                "docker buildx build --platform=linux/amd64 --output=type=oci,rewrite-timestamp=true,dest=HERE/cache/ROOM/image.tar {common}"
            )],
        ),
        (
            "docker",
            r#"case "$*" in
            *type=oci*) echo "OCI exporter is not supported for the docker driver" >&2; exit 1 ;;
            *iidfile*) for a in "$@"; do case "$a" in --iidfile=*) echo sha256:12 > "${a#--iidfile=}" ;; esac; done ;; esac"#,
            &[
                format!("docker build --iidfile=HERE/cache/ROOM/image.id {common}"),
                "docker save --output=HERE/cache/ROOM/image.tar sha256:12 1700000000".to_owned(),
            ],
        ),
        (
            "podman",
            r#"for a in "$@"; do case "$a" in --iidfile=*) echo 12 > "${a#--iidfile=}" ;; esac; done"#,
            &[
                format!(
                    "podman build --iidfile=HERE/cache/ROOM/image.id --format=docker --timestamp=1700000000 {common}"
                ),
                "podman save --format=docker-archive --output=HERE/cache/ROOM/image.tar 12 1700000000"
                    .to_owned(),
            ],
        ),
        (
            "buildah",
            "exit 0",
            &[format!(
                "buildah bud --isolation=chroot --format=docker --timestamp=1700000000 --tag=docker-archive:HERE/cache/ROOM/image.tar {common}"
            )],
        ),
    ];
    for (name, text, expected) in table {
        let setup = Setup::new("FROM scratch");
        setup.builder(name, text);
        // The scripts build nothing.
        let error = setup.run().await.unwrap_err();
        assert!(
            whole(&error).contains("There is no image at"),
            "{}",
            whole(&error)
        );
        let log = setup.log();
        assert!(log.ends_with(expected), "{log:#?}");
    }
}

#[tokio::test]
async fn a_builder_that_does_not_work_is_passed_over_or_named() {
    let setup = Setup::new("FROM scratch");
    let error = setup.run().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "A Dockerfile needs docker, podman or buildah to be built, and none of them is installed"
    );
    assert_eq!(error.exit_code().number(), 3);
    setup.builder("docker", "exit 1");
    let message = setup.run().await.unwrap_err().to_string();
    assert!(
        message.ends_with("and docker does not work on this machine"),
        "{message}"
    );
    setup.builder("buildah", "echo STEP 1; echo broken; exit 2");
    let error = setup.run().await.unwrap_err();
    let message = whole(&error);
    assert!(
        message.contains("cannot be built: ") && message.ends_with("STEP 1\nbroken"),
        "{message}"
    );
    assert_eq!(error.exit_code().number(), 1);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mut setup = Setup::new("FROM scratch");
    setup.request.context = "/nonexistent".into();
    assert!(whole(&setup.run().await.unwrap_err()).contains("The context `/nonexistent`"));
    setup.request.build_args = [("a=b".to_owned(), String::new())].into();
    setup.request.context = setup.directory.path().to_path_buf();
    assert!(whole(&setup.run().await.unwrap_err()).contains("not the name of a build argument"));
    setup.request.dockerfile = "/nonexistent/Dockerfile".into();
    assert!(whole(&setup.run().await.unwrap_err()).contains("no Dockerfile at"));
}

#[tokio::test]
async fn ctrl_c_ends_the_builder() {
    let setup = Setup::new("FROM scratch");
    let child = setup.directory.path().join("child");
    setup.builder(
        "buildah",
        &format!("sleep 600 & echo $! > {}; wait", child.display()),
    );
    let (sender, interrupted) = watch::channel(false);
    let bin = setup.directory.path().join("bin");
    let (result, process) =
        tokio::join!(setup.run_with(Some(bin.as_os_str()), interrupted), async {
            let process = process_in(&child).await;
            sender.send(true).unwrap();
            process
        });
    assert_eq!(result.unwrap_err().exit_code().number(), 130);
    ended(process).await;
}

#[tokio::test]
async fn buildah_builds_from_scratch() {
    let path = std::env::var_os("PATH");
    let programs = Programs::in_path(path.as_deref());
    let Some(buildah) = programs.find("buildah") else {
        println!("SKIPPED: there is no buildah");
        return;
    };
    let mut setup = Setup::new(
        "FROM scratch AS first\nARG A\nCOPY data /srv/data\nFROM scratch AS last\nCOPY --from=first /srv /srv\nENV A=b\nCMD [\"/run\"]\nHEALTHCHECK --interval=7s CMD [\"/run\", \"-h\"]\nFROM scratch\n",
    );
    setup.request.build_args = [("A".to_owned(), "x".to_owned())].into();
    fs_err::write(setup.directory.path().join("data"), "hello").unwrap();
    std::os::unix::fs::symlink(buildah, setup.directory.path().join("bin/buildah")).unwrap();
    let bin = setup.directory.path().join("bin");
    let mut manifests = Vec::new();
    for _ in 0..2 {
        let image = match setup.run_with(Some(bin.as_os_str()), never()).await {
            Ok(image) => image,
            Err(error) if whole(&error).contains("permission denied") => {
                println!("SKIPPED: buildah does not work here: {}", whole(&error));
                return;
            }
            Err(error) => panic!("{}", whole(&error)),
        };
        assert_eq!(seen(&image.tree), ["srv a directory", "srv/data = hello"]);
        assert_eq!(image.config.defaults().entrypoint, ["/run"]);
        assert_eq!(image.config.env.last().unwrap(), "A=b");
        let health = image.config.healthcheck.unwrap();
        assert_eq!(health.test, ["CMD", "/run", "-h"]);
        assert_eq!(health.interval_ns, 7_000_000_000);
        manifests.push(image.identity.layers);
    }
    assert_eq!(manifests[0], manifests[1]);
}
