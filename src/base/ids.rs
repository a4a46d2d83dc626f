//! Identifiers.

use std::fmt;

use super::codec::{Decode, Encode};
use super::error::{Error, Result};

/// The longest node id, in bytes.
pub const NODE_ID_MAX: usize = 64;

/// A node's name, chosen by the operator: 1 to [`NODE_ID_MAX`] printable ASCII characters without space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Box<str>);

impl NodeId {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] when it is empty, too long, or has other characters.
    pub fn new(name: &str) -> Result<NodeId> {
        if name.is_empty() || name.len() > NODE_ID_MAX {
            return Err(Error::invalid("node_id", format_args!("length {} is not in 1..={NODE_ID_MAX} bytes", name.len())));
        }
        if let Some(c) = name.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(Error::invalid("node_id", format_args!("character {c:?} is not printable ASCII")));
        }
        Ok(NodeId(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A fencing token: strictly increasing over all grants of a ledger, for ever. 0 is never granted; below 2^63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session's number, given by the ledger and never given twice. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
