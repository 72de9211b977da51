//! The API of a running volantd, used as hard as others would: held against its own description, measured under load, and run long. Real
//! guests are for `e2e`; here a fake QEMU stands for them.

pub(crate) mod bench;
mod client;
pub(crate) mod conformity;
mod held;
mod lab;
pub(crate) mod soak;
mod threads;
mod unlucky;
