//! What volantd adds for one guest: a file that is read once and removed with its directory, or a disk that is read once and taken out
//! of the machine. Its contents are [`common::guest_config`].

use std::io;
use std::path::Path;

use common::cmdline::{KEY_CONFIG, is_device};
use common::guest_config::{
    GUEST_CONFIG_PATH, GuestConfig, MAX_CONFIG_DISK_BYTES, MAX_GUEST_CONFIG_BYTES, from_disk,
};

use crate::boot::{BootError, Facts};
use crate::console;
use crate::sys::Sys;

/// Reads and removes the config. A guest without it has no secret, so nobody can ask it to stop; it runs all the same.
pub(crate) fn take(sys: &dyn Sys, facts: &mut Facts) -> Result<(), BootError> {
    match facts.words.get(KEY_CONFIG) {
        Some(device) if is_device(device) => facts.config = Some(take_disk(sys, device)?),
        Some(device) => {
            let device = device.clone();
            return Err(BootError::BadConfigDevice { device });
        }
        None => take_file(sys, facts)?,
    }
    Ok(())
}

fn take_disk(sys: &dyn Sys, device: &str) -> Result<GuestConfig, BootError> {
    let limit_bytes = u64::try_from(MAX_CONFIG_DISK_BYTES).unwrap_or(u64::MAX);
    let content = sys
        .read(Path::new(device), limit_bytes)
        .map_err(BootError::GuestConfigRead)?;
    // Root in the guest could scan the bus and find it again; a workload that only reads files cannot.
    let name = device.trim_start_matches("/dev/");
    let removal = format!("/sys/block/{name}/device/../remove");
    if let Err(error) = sys.write(Path::new(&removal), b"1") {
        console::line(&format!("{device} stays readable for root: {error}"));
    }
    serde_json::from_slice(from_disk(&content)).map_err(BootError::GuestConfigJson)
}

fn take_file(sys: &dyn Sys, facts: &mut Facts) -> Result<(), BootError> {
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

    fn with_disk(device: &str) -> Facts {
        let mut facts = Facts::default();
        facts.words.insert(KEY_CONFIG.to_owned(), device.to_owned());
        facts
    }

    #[test]
    fn a_disk_is_read_and_taken_out() {
        let disk = format!("{JSON}\0\0\0\0");
        let sys = FakeSys::default().with_file("/dev/vdb", &disk);
        let mut facts = with_disk("/dev/vdb");
        take(&sys, &mut facts).unwrap();
        assert!(facts.config.unwrap().secret.matches("abc"));
        let acts = ["read /dev/vdb", "write /sys/block/vdb/device/../remove"];
        assert_eq!(sys.acts(), acts);
        // That it stays is no reason not to serve.
        let sys = FakeSys::default()
            .with_file("/dev/vdb", &disk)
            .failing(acts[1], io::ErrorKind::NotFound);
        take(&sys, &mut with_disk("/dev/vdb")).unwrap();
    }

    #[test]
    fn a_disk_that_was_promised_must_be_there_and_good() {
        let table = [
            ("/dev/vdb", ""),
            ("/dev/vdb", "\0\0"),
            ("/dev/vdc", JSON),
            ("/etc/passwd", JSON),
        ];
        for (device, content) in table {
            let sys = FakeSys::default().with_file("/dev/vdb", content);
            take(&sys, &mut with_disk(device)).expect_err(device);
        }
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
