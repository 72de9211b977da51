//! The file that volantd adds for one guest: read once, then removed with its directory. Its contents are [`common::guest_config`].

use std::io;
use std::path::Path;

use common::guest_config::{GUEST_CONFIG_PATH, MAX_GUEST_CONFIG_BYTES};

use crate::boot::{BootError, Facts};
use crate::console;
use crate::sys::Sys;

/// Reads and removes the file. A guest without it has no secret, so nobody can ask it to stop; it runs all the same.
pub(crate) fn take(sys: &dyn Sys, facts: &mut Facts) -> Result<(), BootError> {
    let path = Path::new(GUEST_CONFIG_PATH);
    let limit_bytes = u64::try_from(MAX_GUEST_CONFIG_BYTES).unwrap_or(u64::MAX);
    let read = match sys.read(path, limit_bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read,
    };
    // Whatever it holds, the workload must not find the secret.
    if let Err(error) = remove(sys, path) {
        return Err(BootError::GuestConfigRemoval(error));
    }
    let json = read.map_err(BootError::GuestConfigRead)?;
    let config = serde_json::from_slice(&json).map_err(BootError::GuestConfigJson)?;
    facts.config = Some(config);
    Ok(())
}

fn remove(sys: &dyn Sys, path: &Path) -> io::Result<()> {
    sys.remove_file(path)?;
    if let Some(folder) = path.parent()
        && let Err(error) = sys.remove_dir(folder)
    {
        // An image may have put something of its own there.
        console::line(&format!("`{}` stays: {error}", folder.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fake::FakeSys;

    const JSON: &str = r#"{"secret":"abc","env":{"KEY":"value"}}"#;

    #[test]
    fn it_is_read_and_removed() {
        let sys = FakeSys::default().with_file(GUEST_CONFIG_PATH, JSON);
        let mut facts = Facts::default();
        take(&sys, &mut facts).unwrap();
        let config = facts.config.unwrap();
        assert!(config.secret.matches("abc"));
        assert_eq!(config.env["KEY"], "value");
        assert_eq!(
            sys.acts(),
            [
                "read /.volant/config.json",
                "remove_file /.volant/config.json",
                "remove_dir /.volant"
            ]
        );
    }

    #[test]
    fn without_it_the_guest_boots() {
        let mut facts = Facts::default();
        take(&FakeSys::default(), &mut facts).unwrap();
        assert!(facts.config.is_none());
    }

    #[test]
    fn a_bad_one_is_removed_too() {
        let sys = FakeSys::default().with_file(GUEST_CONFIG_PATH, "{");
        let error = take(&sys, &mut Facts::default()).unwrap_err();
        assert!(matches!(error, BootError::GuestConfigJson(_)));
        assert!(
            sys.acts()
                .contains(&format!("remove_file {GUEST_CONFIG_PATH}"))
        );
    }

    #[test]
    fn one_that_cannot_be_removed_ends_the_boot() {
        let sys = FakeSys::default()
            .with_file(GUEST_CONFIG_PATH, JSON)
            .failing(
                "remove_file /.volant/config.json",
                io::ErrorKind::ReadOnlyFilesystem,
            );
        let error = take(&sys, &mut Facts::default()).unwrap_err();
        assert!(matches!(error, BootError::GuestConfigRemoval(_)));
    }
}
