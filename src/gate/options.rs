//! What a gate is told when it is opened.

use crate::base::{Config, Error, Result};

/// What a closed gate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Mode {
    /// Nothing is judged: every write passes. A named weaker mode.
    #[serde(rename = "disabled")]
    Disabled,
    /// Every write passes, and those that would have been refused are counted. A named weaker mode.
    #[serde(rename = "log-only")]
    LogOnly,
    /// Writes without a valid lease are refused.
    #[serde(rename = "block-write")]
    Block,
}

impl Mode {
    /// The word used in settings and status.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Disabled => "disabled",
            Mode::LogOnly => "log-only",
            Mode::Block => "block-write",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;
    fn from_str(word: &str) -> Result<Mode> {
        [Mode::Disabled, Mode::LogOnly, Mode::Block]
            .into_iter()
            .find(|m| m.name() == word)
            .ok_or_else(|| Error::invalid("mode", format_args!("{word:?} is none of disabled, log-only, block-write")))
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// By which clock the hot path judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockPolicy {
    /// CLOCK_BOOTTIME.
    Boottime,
    /// The TSC, as long as it agrees with BOOTTIME; then BOOTTIME. A named weaker mode.
    Tsc,
}

/// A gate's settings, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What a closed gate does at first; [`super::GateCore::set_mode`] changes it.
    pub mode: Mode,
    /// By which clock the hot path judges.
    pub clock: ClockPolicy,
    /// A shorter lease is refused.
    pub ttl_min_ns: u64,
    /// A longer lease is cut to this.
    pub ttl_max_ns: u64,
    /// Longest time for which a published deadline is good without another look at the clocks.
    pub leash_ns: u64,
    /// How long before the lease's end new writes are refused; `None`: a tenth of the lease.
    pub drain_budget_ns: Option<u64>,
    /// Largest step by which a pushed message may raise the epoch.
    pub epoch_jump_max: u64,
    /// Named weaker mode: open from the start until the first grant.
    pub start_open: bool,
    /// Named weaker mode: a heartbeat without a nonce counts from its receipt.
    pub trust_receipt: bool,
    /// What is done when a lease ends under writes in flight.
    pub on_expiry: OnExpiry,
    /// How long the host may be silent, ns; 0: for ever.
    pub beat_timeout_ns: u64,
}

/// What is done when a lease ends, beside closing the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    /// Nothing.
    None,
    /// The process is aborted if writes are in flight.
    Abort,
    /// The process is aborted.
    AbortAlways,
}

const MS: u64 = 1_000_000;

impl Options {
    /// The `gate.*` settings.
    ///
    /// # Errors
    /// [`crate::base::Status::InvalidArgument`] when two settings contradict each other.
    pub fn from_config(config: &Config) -> Result<Options> {
        let ms = |name: &str| config.number(name).map(|v| v * MS);
        let budget = ms("gate.drain_budget_ms")?;
        let options = Options {
            mode: config.get("gate.mode")?.parse()?,
            clock: if config.get("gate.clock")? == "tsc" { ClockPolicy::Tsc } else { ClockPolicy::Boottime },
            ttl_min_ns: ms("gate.ttl_min_ms")?,
            ttl_max_ns: ms("gate.ttl_max_ms")?,
            leash_ns: ms("gate.leash_ms")?,
            drain_budget_ns: (budget != 0).then_some(budget),
            epoch_jump_max: config.number("gate.epoch_jump_max")?,
            start_open: config.flag("gate.start_open")?,
            trust_receipt: config.flag("gate.trust_receipt")?,
            on_expiry: match config.get("gate.on_expiry")? {
                "abort" => OnExpiry::Abort,
                "abort-always" => OnExpiry::AbortAlways,
                _ => OnExpiry::None,
            },
            beat_timeout_ns: ms("gate.beat_timeout_ms")?,
        };
        if options.ttl_min_ns > options.ttl_max_ns {
            return Err(Error::invalid("gate.ttl_min_ms", "is above gate.ttl_max_ms"));
        }
        Ok(options)
    }
}
