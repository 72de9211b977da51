//! The systemd unit of volantd, as it is shipped, with the place where volantd really is.

use std::path::Path;

/// The unit as it is shipped beside volantd.
const TEMPLATE: &str = include_str!("../../../volantd/systemd/volantd.service");

/// The line of it that is replaced.
const EXEC_START: &str = "ExecStart=/usr/local/bin/volantd";

/// The unit for a volantd in `directory`.
pub(super) fn render(directory: &Path) -> String {
    let program = directory.join("volantd").display().to_string();
    let line = format!("ExecStart={}", word(&program));
    TEMPLATE
        .lines()
        .map(|template| {
            if template == EXEC_START {
                &line
            } else {
                template
            }
        })
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// A path as one word of a command line in a unit (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers").
fn word(path: &str) -> String {
    let path = path.replace('%', "%%").replace('$', "$$");
    if path.contains([' ', '\t', '"', '\'', '\\', ';']) {
        format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_program_changes() {
        assert_eq!(
            TEMPLATE.lines().filter(|line| *line == EXEC_START).count(),
            1
        );
        assert_eq!(render(Path::new("/usr/local/bin")), TEMPLATE);
        let unit = render(Path::new("/opt/volant/bin"));
        assert!(unit.contains("\nExecStart=/opt/volant/bin/volantd\n"));
        assert_eq!(unit.lines().count(), TEMPLATE.lines().count());
    }

    #[test]
    fn vms_outlive_the_service() {
        for line in [
            "Type=notify",
            "KillMode=process",
            "RuntimeDirectoryPreserve=yes",
        ] {
            assert!(TEMPLATE.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn odd_paths_are_one_word() {
        assert_eq!(word("/a b/volantd"), "\"/a b/volantd\"");
        assert_eq!(word("/50%/$x"), "/50%%/$$x");
    }
}
