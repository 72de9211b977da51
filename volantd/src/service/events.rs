//! Events of VMs and plugins for whoever asks.

use super::{ErrorKind, Service, ServiceError};
use crate::event::{Filter, Reader};

impl Service {
    /// Events as they come, or after number `after`.
    ///
    /// # Errors
    /// If there are too many readers.
    pub async fn events(&self, after: Option<u64>, filter: Filter) -> Result<Reader, ServiceError> {
        self.parts
            .events
            .read(after, filter)
            .await
            .map_err(|error| ServiceError::new(ErrorKind::Unavailable, error.to_string()))
    }
}
