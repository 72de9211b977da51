//! What `volar setup` does to a host, as a list of steps: made by a pure function, shown or done afterwards.
//!
//! The network is not among them: volantd makes bridge and rules itself at each start.

mod apply;
mod unit;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use common::net::Subnet;

pub use apply::{StepError, apply, look};

use crate::cli::SetupArgs;

/// The group whose members may use volantd without being root.
pub const GROUP: &str = "volant";

/// Where volantd looks for its configuration.
pub const CONFIG_FILE: &str = "/etc/volant/volantd.toml";

/// The daemon's subnet and address unless told otherwise, as in volantd.
const DEFAULT_SUBNET: &str = "192.168.127.0/24";

/// The directories and their modes. Others may pass through the state directory but not list it, as the unit says as well.
const DIRECTORIES: [(&str, u32); 4] = [
    ("/etc/volant", 0o755),
    ("/var/lib/volant", 0o711),
    ("/var/lib/volant/kernel", 0o755),
    ("/run/volant", 0o755),
];

/// A host that cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Everything here needs root.
    #[error("You are not root")]
    NotRoot,
    /// There is nothing that the service could start.
    #[error("There is no volantd beside volar in `{}`", directory.display())]
    NoDaemon {
        /// Where it should be.
        directory: PathBuf,
    },
    /// The address must be one of the subnet's.
    #[error("`{host_ip}` is not a host address in {subnet}")]
    HostOutside {
        /// The address.
        host_ip: Ipv4Addr,
        /// The subnet.
        subnet: String,
    },
    /// systemd would not take it for a service.
    #[error("`{path}` is not an absolute path of a .service file")]
    ServiceFile {
        /// The text.
        path: String,
    },
    /// Somebody's own configuration is not overwritten.
    #[error("`{}` exists and says something else", path.display())]
    ConfigExists {
        /// The file.
        path: PathBuf,
    },
    /// The program does not know where it is.
    #[error("Cannot find out where volar is")]
    Locate(#[source] io::Error),
    /// A step did not work.
    #[error("Cannot {step}")]
    Step {
        /// The step.
        step: String,
        /// The cause.
        #[source]
        source: StepError,
    },
}

/// What was found on the host.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Facts {
    /// Whether this process is root.
    pub is_root: bool,
    /// Whether group `volant` exists.
    pub has_group: bool,
    /// Whether systemd runs this host.
    pub has_systemd: bool,
    /// The directory that volar is in.
    pub directory: PathBuf,
    /// Whether volantd is in it.
    pub has_daemon: bool,
    /// Which of the directories exist.
    pub existing: BTreeSet<PathBuf>,
    /// The service file, if it exists.
    pub unit: Option<String>,
    /// The configuration file, if it exists.
    pub config: Option<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a directory, with its parents.
    Directory {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Writes a file, replacing what was there in one step.
    File {
        /// Where.
        path: PathBuf,
        /// All that will be in it.
        content: String,
    },
    /// Runs a program.
    Run {
        /// The program and its arguments.
        words: Vec<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => {
                write!(f, "make directory {} (mode {mode:04o})", path.display())
            }
            Self::File { path, .. } => write!(f, "write {}", path.display()),
            Self::Run { words } => write!(f, "run {}", words.join(" ")),
        }
    }
}

fn run(words: &[&str]) -> Step {
    Step::Run {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
    }
}

/// What is to be done on a host like this. What is done already is left out, so a second run has little to do.
///
/// # Errors
/// [`SetupError`] if it cannot be done as asked; nothing was changed then.
pub fn plan(args: &SetupArgs, facts: &Facts) -> Result<Vec<Step>, SetupError> {
    if !facts.is_root && !args.dry_run {
        return Err(SetupError::NotRoot);
    }
    check_network(args)?;
    let mut steps = Vec::new();
    if !facts.has_group {
        steps.push(run(&["groupadd", "--system", GROUP]));
    }
    for (path, mode) in DIRECTORIES {
        let path = PathBuf::from(path);
        if !facts.existing.contains(&path) {
            steps.push(Step::Directory { path, mode });
        }
    }
    steps.extend(config(args, facts)?);
    steps.extend(service(args, facts)?);
    Ok(steps)
}

fn check_network(args: &SetupArgs) -> Result<(), SetupError> {
    let Some(host_ip) = args.host_ip else {
        return Ok(());
    };
    let outside = |subnet: String| SetupError::HostOutside { host_ip, subnet };
    let subnet: Subnet = match args.subnet {
        Some(subnet) => subnet,
        None => DEFAULT_SUBNET
            .parse()
            .map_err(|_| outside(DEFAULT_SUBNET.to_owned()))?,
    };
    if subnet.has_host(host_ip) {
        Ok(())
    } else {
        Err(outside(subnet.to_string()))
    }
}

/// The configuration file, if anything was asked for that is not a default.
fn config(args: &SetupArgs, facts: &Facts) -> Result<Option<Step>, SetupError> {
    let values = [
        ("bridge", args.bridge.clone()),
        ("subnet", args.subnet.map(|subnet| subnet.to_string())),
        ("host_ip", args.host_ip.map(|address| address.to_string())),
        (
            "kernel",
            args.vmlinux.as_ref().map(|path| path.display().to_string()),
        ),
    ];
    // Only words get here, see `cli::setup`: nothing in them needs to be escaped.
    let content: String = values
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = \"{}\"\n", value?)))
        .collect();
    let path = PathBuf::from(CONFIG_FILE);
    match &facts.config {
        _ if content.is_empty() => Ok(None),
        None => Ok(Some(Step::File { path, content })),
        Some(existing) if *existing == content => Ok(None),
        Some(_) => Err(SetupError::ConfigExists { path }),
    }
}

fn service(args: &SetupArgs, facts: &Facts) -> Result<Vec<Step>, SetupError> {
    if args.service_file.is_empty() {
        return Ok(Vec::new());
    }
    let path = Path::new(&args.service_file);
    let name = path.file_name().and_then(|name| name.to_str());
    let is_service = path
        .extension()
        .is_some_and(|extension| extension == "service");
    let (Some(name), true, true) = (name, path.is_absolute(), is_service) else {
        return Err(SetupError::ServiceFile {
            path: args.service_file.clone(),
        });
    };
    if !facts.has_daemon && !args.dry_run {
        return Err(SetupError::NoDaemon {
            directory: facts.directory.clone(),
        });
    }
    let content = unit::render(&facts.directory);
    let mut steps = Vec::new();
    let is_new = facts.unit.as_ref() != Some(&content);
    if is_new {
        steps.push(Step::File {
            path: path.to_path_buf(),
            content,
        });
    }
    if facts.has_systemd {
        steps.push(run(&["systemctl", "daemon-reload"]));
        steps.push(run(&["systemctl", "enable", "--now", name]));
        // `enable --now` leaves a running service as it was; VMs live through its restart.
        if is_new && facts.unit.is_some() {
            steps.push(run(&["systemctl", "try-restart", name]));
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> SetupArgs {
        SetupArgs {
            dry_run: false,
            service_file: "/etc/systemd/system/volantd.service".to_owned(),
            bridge: None,
            subnet: None,
            host_ip: None,
            vmlinux: None,
        }
    }

    fn facts() -> Facts {
        Facts {
            is_root: true,
            has_systemd: true,
            directory: "/usr/local/bin".into(),
            has_daemon: true,
            ..Facts::default()
        }
    }

    fn shown(args: &SetupArgs, facts: &Facts) -> String {
        let steps = plan(args, facts).unwrap();
        let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn a_fresh_host_gets_everything() {
        insta::assert_snapshot!(shown(&args(), &facts()), @r"
        run groupadd --system volant
        make directory /etc/volant (mode 0755)
        make directory /var/lib/volant (mode 0711)
        make directory /var/lib/volant/kernel (mode 0755)
        make directory /run/volant (mode 0755)
        write /etc/systemd/system/volantd.service
        run systemctl daemon-reload
        run systemctl enable --now volantd.service
        ");
    }

    /// A host after a first run.
    fn prepared() -> Facts {
        Facts {
            has_group: true,
            existing: DIRECTORIES.iter().map(|(path, _)| path.into()).collect(),
            unit: Some(unit::render(Path::new("/usr/local/bin"))),
            ..facts()
        }
    }

    #[test]
    fn a_second_run_only_makes_sure_that_it_runs() {
        insta::assert_snapshot!(shown(&args(), &prepared()), @r"
        run systemctl daemon-reload
        run systemctl enable --now volantd.service
        ");
    }

    #[test]
    fn a_changed_unit_restarts_the_daemon() {
        let mut facts = prepared();
        facts.directory = "/opt/volant/bin".into();
        assert!(shown(&args(), &facts).ends_with("run systemctl try-restart volantd.service"));
    }

    #[test]
    fn without_systemd_only_the_file_is_written() {
        let mut facts = facts();
        facts.has_systemd = false;
        assert!(shown(&args(), &facts).ends_with("write /etc/systemd/system/volantd.service"));
    }

    #[test]
    fn an_empty_service_file_means_no_service() {
        let mut args = args();
        args.service_file = String::new();
        let mut facts = facts();
        facts.has_daemon = false;
        assert!(!shown(&args, &facts).contains("systemctl"));
    }

    #[test]
    fn values_go_to_a_configuration_that_is_never_overwritten() {
        let mut args = args();
        args.bridge = Some("br7".to_owned());
        args.subnet = Some("10.20.0.0/24".parse().unwrap());
        args.host_ip = Some(Ipv4Addr::new(10, 20, 0, 1));
        args.vmlinux = Some("/boot/vmlinux".into());
        let content = "bridge = \"br7\"\nsubnet = \"10.20.0.0/24\"\nhost_ip = \"10.20.0.1\"\nkernel = \"/boot/vmlinux\"\n";
        let written = Step::File {
            path: CONFIG_FILE.into(),
            content: content.to_owned(),
        };
        let mut facts = facts();
        assert!(plan(&args, &facts).unwrap().contains(&written));
        facts.config = Some(content.to_owned());
        assert!(!plan(&args, &facts).unwrap().contains(&written));
        facts.config = Some("log_format = \"json\"\n".to_owned());
        assert!(matches!(
            plan(&args, &facts),
            Err(SetupError::ConfigExists { .. })
        ));
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_is_done() {
        let mut plain = facts();
        plain.is_root = false;
        assert!(matches!(plan(&args(), &plain), Err(SetupError::NotRoot)));
        let mut dry = args();
        dry.dry_run = true;
        assert!(plan(&dry, &plain).is_ok());

        let mut lonely = facts();
        lonely.has_daemon = false;
        assert!(matches!(
            plan(&args(), &lonely),
            Err(SetupError::NoDaemon { .. })
        ));

        let mut outside = args();
        outside.host_ip = Some(Ipv4Addr::new(10, 0, 0, 1));
        assert!(matches!(
            plan(&outside, &facts()),
            Err(SetupError::HostOutside { .. })
        ));

        for bad in ["volantd.service", "/etc/volantd", "/"] {
            let mut args = args();
            args.service_file = bad.to_owned();
            assert!(
                matches!(plan(&args, &facts()), Err(SetupError::ServiceFile { .. })),
                "{bad}"
            );
        }
    }
}
