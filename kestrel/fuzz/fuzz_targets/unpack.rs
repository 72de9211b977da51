//! A tar archive from a host, unpacked into a directory of the guest: whatever it holds, nothing beside the directory is made, changed or
//! removed. Much faster with TMPDIR in memory.
#![no_main]

#[path = "../../src/sys/beneath.rs"]
mod beneath;
#[expect(dead_code, reason = "copies in the other direction, too")]
#[path = "../../src/files/mod.rs"]
mod files;
#[path = "../../src/files/hostile.rs"]
mod hostile;
#[path = "../../src/sys/plain.rs"]
mod plain;

/// Where the files room looks for them.
mod sys {
    pub(crate) use crate::beneath;
    pub(crate) use crate::plain::open_plain;
}

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let archive = hostile::of_input(bytes);
    let room = hostile::Room::new();
    if let Err(error) = files::unpack(&room.inside(), archive.as_slice()) {
        assert!(!error.to_string().is_empty());
    }
    room.check();
});
