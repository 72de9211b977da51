//! The logs of workloads for whoever asks.

use common::name::Name;

use super::{ErrorKind, Service, ServiceError};
use crate::console::{LogPart, LogReader};
use crate::log::{Filter, Reader};
use crate::machine::ports::VmPaths;

impl Service {
    /// A reader of what a VM's workload writes.
    ///
    /// # Errors
    /// If there is no such VM, or there are too many readers.
    pub fn read_log(&self, name: &Name, filter: Filter) -> Result<Reader, ServiceError> {
        let logs = &self.parts.logs;
        let read = |paths: &VmPaths| logs.read(name, &paths.state_dir, filter);
        let reader = self.parts.registry.open(name, read)?;
        reader.map_err(|error| ServiceError::new(ErrorKind::Unavailable, error.to_string()))
    }

    /// A reader of what a VM wrote on its serial console.
    ///
    /// # Errors
    /// As [`Service::read_log`].
    pub fn read_console_log(&self, name: &Name, part: LogPart) -> Result<LogReader, ServiceError> {
        self.console(name)?
            .read(part)
            .map_err(|error| ServiceError::new(ErrorKind::Unavailable, error.to_string()))
    }
}
