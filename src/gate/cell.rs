//! The cell's layout, which `include/tenure_gate.h` repeats field by field (`tests/gate_header.rs` compares the two).

use super::platform::{Native, Platform, Word};

/// Thread slots that a thread has to itself.
pub const SLOTS: usize = 1024;
/// Slots shared, with atomic read-modify-writes, by the threads beyond [`SLOTS`].
pub const STRIPES: usize = 32;
/// Offset of the first slot from the cell.
pub const SLOTS_OFFSET: usize = 4096;
/// A deadline that no clock reading meets: closed.
pub const NEVER: u64 = 1 << 63;

/// Values of [`Cell::mode`] and of [`super::RawPermit::mode`]. The hot path knows DISABLED, BOOTTIME and TSC and leaves the
/// others to the library.
pub mod mode {
    /// The page of a forked child, which reads as zeros; a permit that is used up.
    pub const WIPED: u32 = 0;
    /// Every write passes.
    pub const DISABLED: u32 = 1;
    /// Writes are judged by CLOCK_BOOTTIME.
    pub const BOOTTIME: u32 = 2;
    /// Writes are judged by the TSC.
    pub const TSC: u32 = 3;
    /// Every write passes; those that would have been refused are counted.
    pub const LOG_ONLY: u32 = 4;
    /// Writes are judged, but in the library: it has to fence, or the clock is an injected one.
    pub const LIBRARY: u32 = 5;
    /// Closed for good.
    pub const SHUT: u32 = 6;
    /// A permit that its write class does not ask of the lease.
    pub const EXEMPT: u32 = 7;
    /// The permit of a batch that writes nothing: never refused, always held.
    pub const EMPTY: u32 = 8;
}

/// Which clock the library judges by ([`Cell::kind`]).
pub mod kind {
    /// CLOCK_BOOTTIME through [`super::Cell::clock`].
    pub const BOOTTIME: u32 = 0;
    /// The TSC.
    pub const TSC: u32 = 1;
    /// A clock object of the library's; BOOTTIME windows apply.
    pub const INJECTED: u32 = 2;
}

/// Why a write is refused. Numbers are part of the C interface: append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No lease was granted since the gate opened or was reset.
    NeverGranted = 1,
    /// The lease has ended, or is so near its end that new writes could not finish in it.
    Expired = 2,
    /// A higher epoch belongs to another node.
    Superseded = 3,
    /// The gate is being drained, or was, for a hand-over.
    Draining = 4,
    /// The clocks disagree, or the deadline was not looked at again within the leash.
    Clock = 5,
    /// A failure ended the library's work; nothing is known of the lease any more.
    Poisoned = 6,
    /// This process is a forked child of the one that opened the gate.
    Forked = 7,
    /// The gate was closed.
    Closed = 8,
    /// The machine was suspended; no lease has been granted since.
    Suspended = 9,
    /// The machine was restored from a snapshot, cloned or moved: another copy may hold the same office. A higher epoch opens.
    Restored = 10,
    /// The host has not shown that it is alive for longer than `gate.beat_timeout_ms`.
    HostSilent = 11,
}

impl Reason {
    /// Every reason, in numeric order.
    pub const ALL: [Reason; 11] = [
        Reason::NeverGranted,
        Reason::Expired,
        Reason::Superseded,
        Reason::Draining,
        Reason::Clock,
        Reason::Poisoned,
        Reason::Forked,
        Reason::Closed,
        Reason::Suspended,
        Reason::Restored,
        Reason::HostSilent,
    ];

    /// The reason with this number.
    pub fn from_code(code: u32) -> Option<Reason> {
        Reason::ALL.into_iter().find(|r| *r as u32 == code)
    }

    /// The stable name, in lower case with underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NeverGranted => "never_granted",
            Reason::Expired => "expired",
            Reason::Superseded => "superseded",
            Reason::Draining => "draining",
            Reason::Clock => "clock",
            Reason::Poisoned => "poisoned",
            Reason::Forked => "forked",
            Reason::Closed => "closed",
            Reason::Suspended => "suspended",
            Reason::Restored => "restored",
            Reason::HostSilent => "host_silent",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of write asks. Numbers are part of the C interface: append only.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WriteClass {
    /// A client's write: needs the lease, is counted, is acknowledged only on [`super::Verdict::Held`].
    #[default]
    Client = 0,
    /// A write that a replica applies from its master. It is under the sender's lease, not ours: it passes while this gate is not
    /// open, and is refused as [`Reason::Superseded`] while it is, because a node in office has no master.
    Replication = 1,
    /// Loading before the node serves (restore, full synchronisation): as [`WriteClass::Replication`].
    Bootstrap = 2,
    /// A write of the server's own that can wait (expiry of keys, compaction). Needs the lease as a client's does, but being
    /// refused is normal for it and is not counted as a refusal.
    Deferrable = 3,
}

impl WriteClass {
    /// The class with this number.
    pub fn from_code(code: u32) -> Option<WriteClass> {
        [WriteClass::Client, WriteClass::Replication, WriteClass::Bootstrap, WriteClass::Deferrable].into_iter().find(|c| *c as u32 == code)
    }
}

/// What one clock allows. A deadline `d` is open at `now` iff `d - now < limit`, unsigned: past deadlines, [`NEVER`] and a
/// clock that was set back by more than the limit all read as closed, in one subtraction.
#[repr(C)]
#[derive(Debug)]
pub struct Window<P: Platform = Native> {
    /// Last instant at which a write is let in.
    pub soft: P::U64,
    /// Last instant at which the header's fast path says that a write is held: well before `last`, so that the library sees, and
    /// counts, every verdict that comes late, and the others cost nothing.
    pub hard: P::U64,
    /// No honest deadline is further away than this.
    pub limit: P::U64,
    /// Last instant at which a write in flight may be acknowledged.
    pub last: P::U64,
}

/// The shared words of one gate.
///
/// Zeroed memory is a closed gate: so is what a forked child finds (MADV_WIPEONFORK).
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Cell<P: Platform = Native> {
    /// One of [`mode`].
    pub mode: P::U32,
    /// Layout version, 1.
    pub layout: P::U32,
    /// The epoch under which the deadlines hold. Never goes back.
    pub epoch: P::U64,
    /// Deadlines by CLOCK_BOOTTIME (or the injected clock), ns.
    pub boottime: Window<P>,
    /// Address of a `clock_gettime`, normally the vDSO's own.
    pub clock: P::U64,
    /// Where admission would end by CLOCK_BOOTTIME if the leash did not end it before; tells `expired` from `clock`.
    pub lease_end: P::U64,
    /// Deadlines by the TSC, ticks.
    pub tsc: Window<P>,
    /// One of [`kind`].
    pub kind: P::U32,
    /// 1: writers must fence, there is no process-wide barrier.
    pub fenced: P::U32,
    /// Why the publisher closed the gate ([`Reason`]); 0 while it is open.
    pub reason: P::U32,
    /// Number of the drain that began last.
    pub drain: P::U32,
    /// Address of the injected clock, or 0.
    pub injected: P::U64,
    /// Highest epoch seen, whoever's.
    pub epoch_seen: P::U64,
    /// The drain of this number has seen the last permit end.
    pub idle: P::U32,
    /// 0.
    pub reserved: P::U32,
    /// Refusals by [`Reason`].
    pub refused: [P::U64; 16],
    /// Writes that passed only because the mode is log-only.
    pub passed: P::U64,
    /// Writes that finished without a provably valid lease.
    pub uncertain: P::U64,
}

/// Counters of one thread at one gate. Only that thread writes `entered` and `left`.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Slot<P: Platform = Native> {
    /// Permits given, less those taken back at once.
    pub entered: P::U64,
    /// Permits finished by the thread that took them.
    pub left: P::U64,
    /// Permits finished by other threads.
    pub left_remote: P::U64,
    /// Bitwise complement of the least time that was left at a late finish that held, by BOOTTIME; 0: none yet.
    pub closest: P::U64,
}

impl<P: Platform> Window<P> {
    fn closed() -> Self {
        Window { soft: P::U64::new(NEVER), hard: P::U64::new(NEVER), limit: P::U64::new(0), last: P::U64::new(NEVER) }
    }
}

impl<P: Platform> Cell<P> {
    /// A shut cell.
    pub fn new() -> Self {
        Cell {
            mode: P::U32::new(mode::SHUT),
            layout: P::U32::new(1),
            epoch: P::U64::new(0),
            boottime: Window::closed(),
            clock: P::U64::new(0),
            lease_end: P::U64::new(0),
            tsc: Window::closed(),
            kind: P::U32::new(kind::BOOTTIME),
            fenced: P::U32::new(0),
            reason: P::U32::new(Reason::NeverGranted as u32),
            drain: P::U32::new(0),
            injected: P::U64::new(0),
            epoch_seen: P::U64::new(0),
            idle: P::U32::new(0),
            reserved: P::U32::new(0),
            refused: std::array::from_fn(|_| P::U64::new(0)),
            passed: P::U64::new(0),
            uncertain: P::U64::new(0),
        }
    }
}

impl<P: Platform> Default for Cell<P> {
    fn default() -> Self {
        Cell::new()
    }
}

impl<P: Platform> Slot<P> {
    /// A slot that counts nothing.
    pub fn new() -> Self {
        Slot { entered: P::U64::new(0), left: P::U64::new(0), left_remote: P::U64::new(0), closest: P::U64::new(0) }
    }
}

impl<P: Platform> Default for Slot<P> {
    fn default() -> Self {
        Slot::new()
    }
}

const _: () = {
    assert!(size_of::<Slot>() == 128);
    assert!(size_of::<Cell>() <= SLOTS_OFFSET);
    assert!(std::mem::offset_of!(Cell, tsc) == 64);
};
