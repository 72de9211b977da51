//! Which VMM and accelerator new VMs get: a pure decision over facts. `facts` gathers them; nothing is read here.
//!
//! Software emulation is never chosen where KVM works, and whenever it is chosen the reason says so.

use std::fmt;
use std::path::PathBuf;

use crate::machine::ports::{Accelerator, StepError, VmmKind};

/// The oldest Cloud Hypervisor that is driven: its API socket and serial socket are handed down as they are here since v51.
pub const MIN_CLOUD_HYPERVISOR: Version = Version {
    major: 51,
    minor: 0,
};

/// The oldest QEMU that is driven: `server=on,wait=off` and `-accel` as they are written here are understood since 6.0.
pub const MIN_QEMU: Version = Version { major: 6, minor: 0 };

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Cloud Hypervisor where it is found and KVM works, else QEMU.
    Auto,
    /// Cloud Hypervisor only.
    CloudHypervisor,
    /// QEMU only; with KVM where it works.
    Qemu,
}

/// A program's version; what follows the first two numbers does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether /dev/kvm can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevKvm {
    /// It opens for reading and writing.
    Opens,
    /// There is none.
    Missing,
    /// The daemon may not open it.
    Denied,
    /// It does not open for another reason.
    Fails(String),
}

/// What was found out about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// It is there and says its version.
    Found {
        /// Where.
        path: PathBuf,
        /// Which.
        version: Version,
    },
    /// It is not there.
    Missing {
        /// Where it was looked for, for people.
        looked: String,
    },
    /// It is there and does not say a version.
    Broken {
        /// Where.
        path: PathBuf,
        /// What it did instead, for people.
        why: String,
    },
}

/// Everything that the decision depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether /dev/kvm can be used.
    pub dev_kvm: DevKvm,
    /// Whether /proc/cpuinfo shows `vmx` or `svm`.
    pub cpu_virtualization: bool,
    /// The `cloud-hypervisor` program.
    pub cloud_hypervisor: Program,
    /// The `qemu-system-x86_64` program.
    pub qemu: Program,
}

impl Facts {
    /// Why KVM cannot be used, as half a sentence; `None` if it can.
    ///
    /// A paravirtual KVM opens and creates VMs, but cannot run an ordinary guest kernel: the CPU's flags give it away.
    pub fn kvm_obstacle(&self) -> Option<String> {
        match (&self.dev_kvm, self.cpu_virtualization) {
            (DevKvm::Opens, true) => None,
            (DevKvm::Opens, false) => {
                Some("/dev/kvm opens, but the CPU shows neither vmx nor svm, so it cannot run an ordinary guest".to_owned())
            }
            (DevKvm::Missing, true) => Some("there is no /dev/kvm".to_owned()),
            (DevKvm::Missing, false) => {
                Some("there is no /dev/kvm and the CPU shows neither vmx nor svm".to_owned())
            }
            (DevKvm::Denied, _) => Some("this user may not open /dev/kvm".to_owned()),
            (DevKvm::Fails(why), _) => Some(format!("/dev/kvm does not open ({why})")),
        }
    }
}

/// The VMM and accelerator of new VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which program.
    pub kind: VmmKind,
    /// What accelerates it.
    pub accelerator: Accelerator,
    /// Where the program is.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
    /// Why, in one sentence.
    pub reason: String,
}

/// Why no VM can be launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The program is missing, broken or too old.
    #[error("{problem}")]
    Program {
        /// Which.
        kind: VmmKind,
        /// A whole sentence.
        problem: String,
    },
    /// Cloud Hypervisor was asked for, and it has nothing to run on.
    #[error("Cloud Hypervisor needs KVM, and {obstacle}")]
    NeedsKvm {
        /// Half a sentence.
        obstacle: String,
    },
    /// Neither program can be used.
    #[error("No VMM can be used: {cloud_hypervisor}; {qemu}")]
    Neither {
        /// What is wrong with the one.
        cloud_hypervisor: String,
        /// What is wrong with the other.
        qemu: String,
    },
}

impl Refusal {
    /// What to try.
    pub fn hints(&self) -> Vec<String> {
        let cloud_hypervisor = format!(
            "Install cloud-hypervisor v{} or newer, or name it with VOLANT_CLOUD_HYPERVISOR",
            MIN_CLOUD_HYPERVISOR.major
        );
        let qemu =
            format!("Install QEMU {MIN_QEMU} or newer (qemu-system-x86 on Debian and Ubuntu)");
        match self {
            Self::Program {
                kind: VmmKind::CloudHypervisor,
                ..
            } => vec![cloud_hypervisor],
            Self::Program {
                kind: VmmKind::Qemu,
                ..
            } => vec![qemu],
            Self::NeedsKvm { .. } => vec![
                "Run `volar doctor` to see what keeps KVM from working".to_owned(),
                "Set VOLANT_HYPERVISOR=qemu to run VMs with software emulation".to_owned(),
            ],
            Self::Neither { .. } => vec![qemu, cloud_hypervisor],
        }
    }
}

impl From<Refusal> for StepError {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::new(refusal.to_string());
        error.hints = refusal.hints();
        error
    }
}

/// Decides.
///
/// # Errors
/// [`Refusal`] if what was asked for cannot run here.
pub fn choose(wish: Wish, facts: &Facts) -> Result<Choice, Refusal> {
    let obstacle = facts.kvm_obstacle();
    match wish {
        Wish::CloudHypervisor => {
            let (program, version) = usable(VmmKind::CloudHypervisor, &facts.cloud_hypervisor)
                .map_err(|problem| Refusal::Program {
                    kind: VmmKind::CloudHypervisor,
                    problem,
                })?;
            match obstacle {
                Some(obstacle) => Err(Refusal::NeedsKvm { obstacle }),
                None => Ok(Choice {
                    kind: VmmKind::CloudHypervisor,
                    accelerator: Accelerator::Kvm,
                    program,
                    version,
                    reason: "Cloud Hypervisor was asked for, and KVM works".to_owned(),
                }),
            }
        }
        Wish::Qemu => {
            let found = usable(VmmKind::Qemu, &facts.qemu).map_err(|problem| Refusal::Program {
                kind: VmmKind::Qemu,
                problem,
            })?;
            Ok(qemu(found, obstacle, "QEMU was asked for"))
        }
        Wish::Auto => choose_freely(facts, obstacle),
    }
}

fn choose_freely(facts: &Facts, obstacle: Option<String>) -> Result<Choice, Refusal> {
    let cloud_hypervisor = usable(VmmKind::CloudHypervisor, &facts.cloud_hypervisor);
    if let (Ok((program, version)), None) = (&cloud_hypervisor, &obstacle) {
        return Ok(Choice {
            kind: VmmKind::CloudHypervisor,
            accelerator: Accelerator::Kvm,
            program: program.clone(),
            version: *version,
            reason: "Cloud Hypervisor was found, and KVM works".to_owned(),
        });
    }
    match (usable(VmmKind::Qemu, &facts.qemu), cloud_hypervisor) {
        (Ok(found), Ok(_)) => Ok(qemu(
            found,
            obstacle,
            "Cloud Hypervisor was found but needs KVM",
        )),
        (Ok(found), Err(problem)) => Ok(qemu(found, obstacle, &problem)),
        (Err(_), Ok(_)) => Err(Refusal::NeedsKvm {
            obstacle: obstacle.unwrap_or_default(),
        }),
        (Err(qemu), Err(cloud_hypervisor)) => Err(Refusal::Neither {
            cloud_hypervisor,
            qemu,
        }),
    }
}

fn qemu((program, version): (PathBuf, Version), obstacle: Option<String>, why: &str) -> Choice {
    let (accelerator, reason) = match obstacle {
        None => (
            Accelerator::Kvm,
            format!("{why}, so QEMU runs guests with KVM"),
        ),
        Some(obstacle) => (
            Accelerator::Tcg,
            format!(
                "{why}; KVM cannot be used ({obstacle}), so QEMU emulates guests in software, which is slow"
            ),
        ),
    };
    Choice {
        kind: VmmKind::Qemu,
        accelerator,
        program,
        version,
        reason,
    }
}

/// A program that can be used, or a sentence without its end that says why not.
fn usable(kind: VmmKind, program: &Program) -> Result<(PathBuf, Version), String> {
    let (name, least) = match kind {
        VmmKind::CloudHypervisor => ("Cloud Hypervisor", MIN_CLOUD_HYPERVISOR),
        VmmKind::Qemu => ("QEMU", MIN_QEMU),
    };
    match program {
        Program::Found { path, version } if *version >= least => Ok((path.clone(), *version)),
        Program::Found { path, version } => Err(format!(
            "{name} `{}` is version {version}, and {least} or newer is needed",
            path.display()
        )),
        Program::Missing { looked } => Err(format!("{name} was not found ({looked})")),
        Program::Broken { path, why } => {
            Err(format!("{name} `{}` cannot be used: {why}", path.display()))
        }
    }
}

/// Reads the version that a program says: `cloud-hypervisor v53.0-dirty`, `QEMU emulator version 7.2.22 (Debian …)`.
pub(super) fn parse_version(kind: VmmKind, output: &str) -> Option<Version> {
    let before = match kind {
        VmmKind::CloudHypervisor => "cloud-hypervisor v",
        VmmKind::Qemu => "QEMU emulator version ",
    };
    let rest = output
        .lines()
        .find_map(|line| line.trim().strip_prefix(before))?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers
        .next()
        .and_then(|minor| minor.parse().ok())
        .unwrap_or(0);
    Some(Version { major, minor })
}

/// Whether the text of /proc/cpuinfo shows hardware virtualization.
pub(super) fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_ascii_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, major: u32) -> Program {
        Program::Found {
            path: PathBuf::from(name),
            version: Version { major, minor: 2 },
        }
    }

    fn missing() -> Program {
        Program::Missing {
            looked: "not in PATH".to_owned(),
        }
    }

    fn facts(kvm: bool, cloud_hypervisor: Program, qemu: Program) -> Facts {
        Facts {
            dev_kvm: DevKvm::Opens,
            cpu_virtualization: kvm,
            cloud_hypervisor,
            qemu,
        }
    }

    #[test]
    fn every_wish_meets_every_host() {
        let (ch, old, qemu) = (found("/ch", 53), found("/ch", 50), found("/q", 7));
        let (ch_kvm, q_kvm, q_tcg) = (
            Some((VmmKind::CloudHypervisor, Accelerator::Kvm)),
            Some((VmmKind::Qemu, Accelerator::Kvm)),
            Some((VmmKind::Qemu, Accelerator::Tcg)),
        );
        let table = [
            // KVM works, cloud-hypervisor, qemu, auto, cloud-hypervisor, qemu
            (true, &ch, &qemu, [ch_kvm, ch_kvm, q_kvm]),
            (true, &old, &qemu, [q_kvm, None, q_kvm]),
            (true, &missing(), &qemu, [q_kvm, None, q_kvm]),
            (true, &ch, &missing(), [ch_kvm, ch_kvm, None]),
            (true, &missing(), &missing(), [None, None, None]),
            (false, &ch, &qemu, [q_tcg, None, q_tcg]),
            (false, &missing(), &qemu, [q_tcg, None, q_tcg]),
            (false, &ch, &missing(), [None, None, None]),
            (false, &ch, &found("/q", 5), [None, None, None]),
        ];
        for (kvm, cloud_hypervisor, qemu, expected) in table {
            let facts = facts(kvm, cloud_hypervisor.clone(), qemu.clone());
            for (wish, expected) in [Wish::Auto, Wish::CloudHypervisor, Wish::Qemu]
                .into_iter()
                .zip(expected)
            {
                let choice = choose(wish, &facts);
                let got = choice
                    .as_ref()
                    .ok()
                    .map(|choice| (choice.kind, choice.accelerator));
                assert_eq!(got, expected, "{wish:?} on {facts:?}: {choice:?}");
                if let Ok(choice) = choice {
                    assert_eq!(
                        choice.accelerator == Accelerator::Tcg,
                        choice.reason.contains("in software"),
                        "{}",
                        choice.reason
                    );
                }
            }
        }
    }

    #[test]
    fn reasons_and_refusals_are_sentences_with_hints() {
        let paravirtual = facts(false, found("/ch", 53), found("/q", 7));
        let choice = choose(Wish::Auto, &paravirtual).unwrap();
        assert_eq!(
            choice.reason,
            "Cloud Hypervisor was found but needs KVM; KVM cannot be used (/dev/kvm opens, but the CPU shows neither vmx nor svm, \
             so it cannot run an ordinary guest), so QEMU emulates guests in software, which is slow"
        );
        let refusal = choose(Wish::CloudHypervisor, &paravirtual).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("Cloud Hypervisor needs KVM, and /dev/kvm opens, but")
        );
        let refusal = choose(Wish::Auto, &facts(true, found("/ch", 44), missing())).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "No VMM can be used: Cloud Hypervisor `/ch` is version 44.2, and 51.0 or newer is needed; QEMU was not found (not in PATH)"
        );
        let step = StepError::from(refusal);
        assert_eq!(step.hints.len(), 2);
    }

    #[test]
    fn every_obstacle_is_named() {
        let mut facts = facts(true, missing(), missing());
        assert_eq!(facts.kvm_obstacle(), None);
        for (dev_kvm, says) in [
            (DevKvm::Missing, "no /dev/kvm"),
            (DevKvm::Denied, "may not open"),
            (DevKvm::Fails("Device busy".to_owned()), "Device busy"),
        ] {
            facts.dev_kvm = dev_kvm;
            assert!(facts.kvm_obstacle().unwrap().contains(says));
        }
    }

    #[test]
    fn versions_are_read() {
        let ch = |text| parse_version(VmmKind::CloudHypervisor, text);
        assert_eq!(
            ch("cloud-hypervisor v53.0-dirty\nMigration Protocol Versions: 0\n"),
            Some(Version {
                major: 53,
                minor: 0
            })
        );
        assert_eq!(
            ch("cloud-hypervisor v51.1"),
            Some(Version {
                major: 51,
                minor: 1
            })
        );
        assert_eq!(
            ch("cloud-hypervisor v52"),
            Some(Version {
                major: 52,
                minor: 0
            })
        );
        for bad in [
            "",
            "cloud-hypervisor",
            "cloud-hypervisor vx",
            "v53.0",
            "QEMU emulator version 7.2",
        ] {
            assert_eq!(ch(bad), None, "{bad}");
        }
        let qemu =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022";
        assert_eq!(
            parse_version(VmmKind::Qemu, qemu),
            Some(Version { major: 7, minor: 2 })
        );
    }

    #[test]
    fn only_whole_flags_count() {
        assert!(has_virtualization(
            "model name\t: x\nflags\t\t: fpu vmx sse\n"
        ));
        assert!(has_virtualization("flags\t\t: fpu svm"));
        assert!(!has_virtualization(
            "flags\t\t: fpu vmx_foo svme\nvmx flags\t: vnmi\n"
        ));
        assert!(!has_virtualization(""));
    }
}
