//! What every layer uses and what uses no layer: ids, errors, configuration, clocks, randomness, the codec.

pub mod clock;
pub mod codec;
pub mod config;

pub mod error;
pub mod ids;
pub mod key;
pub(crate) mod planted;
pub mod process;
pub mod rng;
pub mod status;

pub use clock::{Clock, Moment, SystemClock, VirtualClock};
pub use config::Config;

pub use error::{Error, Result};
pub use ids::{NodeId, SessionId, Token};
pub use key::Key;
pub use rng::{Rng, SeededRng, SystemRng};
pub use status::Status;
