//! Where the highest epoch seen outlives the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::base::Result;

/// Durable memory of the highest epoch of each gate.
pub trait EpochStore: Send + Sync + fmt::Debug {
    /// The epoch last persisted for this gate.
    ///
    /// # Errors
    /// Whatever the storage says; the gate does not open.
    fn load(&self, gate: &str) -> Result<Option<u64>>;

    /// Remembers `epoch` for this gate; durable on return.
    ///
    /// # Errors
    /// Whatever the storage says; the gate does not open with this epoch.
    fn persist(&self, gate: &str, epoch: u64) -> Result<()>;
}

/// Epochs of a node without a data directory: they last as long as the node.
#[derive(Debug, Default)]
pub struct MemoryEpochs(Mutex<BTreeMap<String, u64>>);

impl EpochStore for MemoryEpochs {
    fn load(&self, gate: &str) -> Result<Option<u64>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(gate).copied())
    }

    fn persist(&self, gate: &str, epoch: u64) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(gate.to_owned(), epoch);
        Ok(())
    }
}
