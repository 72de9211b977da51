//! What a volantd and its VMs hold of the machine: descriptors, threads, processes, files, interfaces, rules. Counted by kind, so that two
//! moments can be compared. Memory is not counted: it is never the same twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use fs_err as fs;

use super::lab::{Lab, fakes};
use crate::process;

/// Things by their kind, each with how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held(BTreeMap<String, u64>);

impl Held {
    /// What the daemon of a lab holds now, and what it has made.
    pub(super) fn by(lab: &Lab) -> Result<Self> {
        let mut held = Self::default();
        held.count_process(lab.pid())?;
        for folder in ["state", "run"] {
            held.count_files(lab.work.path(), &lab.work.path().join(folder))?;
        }
        for pid in fakes(lab.work.path())? {
            held.add(&format!("VMM process {pid}"));
        }
        let shown = [
            ("interface", "ip", &["-oneline", "link", "show"][..]),
            ("route", "ip", &["route", "show", "table", "all"]),
            ("rule", "nft", &["--stateless", "list", "ruleset"]),
        ];
        for (kind, program, arguments) in shown {
            let mut command = lab.inside(Path::new(program));
            held.count_lines(kind, command.args(arguments))?;
        }
        Ok(held)
    }

    /// What is here and was not in `before`, or is here more often.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        let more = self.0.iter().filter_map(|(what, count)| {
            let known = before.0.get(what).copied().unwrap_or(0);
            (*count > known).then(|| format!("{what}: {count}, {known} before"))
        });
        more.collect()
    }

    fn add(&mut self, what: &str) {
        *self.0.entry(what.to_owned()).or_default() += 1;
    }

    /// Descriptors, threads and children of a process.
    fn count_process(&mut self, pid: u32) -> Result<()> {
        let own = format!("/proc/{pid}");
        for entry in fs::read_dir(format!("{own}/fd"))? {
            // One that is closed meanwhile is not held.
            if let Ok(target) = fs::read_link(entry?.path()) {
                self.add(&format!(
                    "descriptor of {}",
                    kind(&target.to_string_lossy())
                ));
            }
        }
        for task in fs::read_dir(format!("{own}/task"))? {
            self.add("thread");
            let children = task?.path().join("children");
            let children = fs::read_to_string(children).unwrap_or_default();
            for _ in children.split_whitespace() {
                self.add("child process");
            }
        }
        Ok(())
    }

    /// All files below `folder`, by their names from `root` on.
    fn count_files(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap_or(&path);
            self.add(&format!("file {}", name.display()));
            if entry.file_type()?.is_dir() {
                self.count_files(root, &path)?;
            }
        }
        Ok(())
    }

    fn count_lines(&mut self, kind: &str, command: &mut Command) -> Result<()> {
        let said = process::captured(command).with_context(|| format!("No {kind} can be seen"))?;
        for line in said.lines() {
            self.add(&format!("{kind} {}", line.trim()));
        }
        Ok(())
    }
}

/// Descriptors of what has a number and no name are of one kind, such as `socket:[123]`.
fn kind(target: &str) -> &str {
    target.split_once(":[").map_or(target, |(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Held {
        let mut held = Held::default();
        held.count_process(std::process::id()).unwrap();
        held
    }

    #[test]
    fn a_leaked_descriptor_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leak");
        let before = own();
        let leaked = fs::File::create(&path).unwrap();
        let expected = format!("descriptor of {}: 1, 0 before", path.display());
        assert!(own().beyond(&before).contains(&expected));
        drop(leaked);
        assert!(!own().beyond(&before).contains(&expected));
    }

    #[test]
    fn a_leaked_process_and_its_thread_are_found() {
        let before = own();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let leaked = own().beyond(&before).join("\n");
        assert!(leaked.contains("child process: "), "{leaked}");
        assert!(leaked.contains("thread: "), "{leaked}");
        drop(end);
        assert!(thread.join().unwrap().is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_leaked_file_is_found_and_one_that_went_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = || {
            let mut held = Held::default();
            held.count_files(dir.path(), dir.path()).unwrap();
            held
        };
        fs::write(dir.path().join("passing"), "").unwrap();
        let before = files();
        fs::remove_file(dir.path().join("passing")).unwrap();
        fs::create_dir(dir.path().join("vm")).unwrap();
        fs::write(dir.path().join("vm/socket"), "").unwrap();
        assert_eq!(
            files().beyond(&before),
            ["file vm: 1, 0 before", "file vm/socket: 1, 0 before"]
        );
        assert_eq!(before.beyond(&before), Vec::<String>::new());
    }

    #[test]
    fn the_same_line_twice_is_more_than_once() {
        let count = |text: &str| {
            let mut held = Held::default();
            held.count_lines("rule", Command::new("printf").arg(text))
                .unwrap();
            held
        };
        let leaked = count("accept\\ndrop\\naccept").beyond(&count("accept\\ndrop"));
        assert_eq!(leaked, ["rule accept: 2, 1 before"]);
    }
}
