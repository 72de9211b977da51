//! `fledge version`.

use crate::ui::Ui;

/// Prints name and version on one line, as `--version` does.
pub fn run(ui: &Ui) {
    ui.result(concat!("fledge ", env!("CARGO_PKG_VERSION")));
}
