//! Gates for the benchmarks: `GateCore` as a node drives it, without a node.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tenure::base::clock::{Clock, Moment, SystemClock};
use tenure::base::{Config, Error, Status};
use tenure::gate::{Cell, GateCore, GateEvent, MemoryEpochs, Options, Reading, Setup};

const TTL_NS: u64 = 60_000_000_000;

type Shared = Arc<Mutex<GateCore>>;

static GATES: Mutex<Vec<Shared>> = Mutex::new(Vec::new());
static KEEPER: OnceLock<()> = OnceLock::new();

fn keep() {
    loop {
        let gates = GATES.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for gate in gates {
            let mut core = gate.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Reading::now(&SystemClock, core.wants_tsc());
            let epoch = core.cell().check().unwrap_or(1).max(1);
            let _ = core.grant(epoch, TTL_NS, now.moment, &now, &mut Vec::new());
            core.tick(&now, &mut Vec::new());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn open(mode: &str, clock: &str) -> Result<Shared, Error> {
    let mut config = Config::new();
    config.set("gate.mode", mode)?.set("gate.clock", clock)?;
    let trusted = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let setup = Setup {
        name: format!("{mode}-{clock}"),
        options: Options::from_config(&config)?,
        epochs: Arc::new(MemoryEpochs::default()),
        injected: None,
        kernel_uses_tsc: trusted.is_ok_and(|source| source.trim() == "tsc"),
    };
    let mut events: Vec<GateEvent> = Vec::new();
    let core = GateCore::new(setup, &Reading::now(&SystemClock, true), &mut events)?;
    Ok(Arc::new(Mutex::new(core)))
}

/// A gate with a lease. `clock`: 0 BOOTTIME, 1 TSC; `mode`: 0 disabled, 1 log-only, 2 block-write. NULL when the clock wanted does
/// not come to count within a second.
#[unsafe(no_mangle)]
pub extern "C" fn bench_gate_open(clock: u32, mode: u32) -> *const Cell {
    let clock = if clock == 1 { "tsc" } else { "boottime" };
    let Ok(gate) = open(["disabled", "log-only", "block-write"][mode.min(2) as usize], clock) else { return std::ptr::null() };
    let cell = gate.lock().unwrap_or_else(PoisonError::into_inner).cell();
    let watched = Arc::clone(&gate);
    GATES.lock().unwrap_or_else(PoisonError::into_inner).push(gate);
    KEEPER.get_or_init(|| {
        std::thread::spawn(keep);
    });
    for _ in 0..1_000 {
        let status = watched.lock().unwrap_or_else(PoisonError::into_inner).status(Moment::now(&SystemClock));
        if status.clock == clock && status.epoch != 0 {
            return cell.as_ptr();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    std::ptr::null()
}

fn find(cell: *const Cell) -> Option<Shared> {
    let gates = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    gates.iter().find(|g| g.lock().unwrap_or_else(PoisonError::into_inner).cell().as_ptr() == cell).cloned()
}

/// Drains the gate. Nanoseconds that it took, or 0 when it failed.
#[unsafe(no_mangle)]
pub extern "C" fn bench_gate_drain(cell: *const Cell) -> u64 {
    let Some(gate) = find(cell) else { return 0 };
    let start = Moment::now(&SystemClock);
    let lock = || gate.lock().unwrap_or_else(PoisonError::into_inner);
    let cell = lock().cell();
    if lock().begin_drain(start, &mut Vec::new()).is_err() {
        return 0;
    }
    cell.wait_idle(|| start.elapsed_ns(Moment::now(&SystemClock)) > 1_000_000_000);
    let end = Moment::now(&SystemClock);
    match lock().end_drain(end, &mut Vec::new()) {
        Ok(()) => start.elapsed_ns(end),
        Err(_) => 0,
    }
}

/// Opens the gate again under the next epoch. 0 on success, else a status.
#[unsafe(no_mangle)]
pub extern "C" fn bench_gate_reopen(cell: *const Cell) -> i32 {
    let Some(gate) = find(cell) else { return Status::BadHandle as i32 };
    let mut core = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Reading { moment: Moment { boottime_ns: SystemClock.boottime_ns(), raw_ns: SystemClock.raw_ns() }, tsc: None };
    let epoch = core.status(now.moment).epoch_seen + 1;
    core.grant(epoch, TTL_NS, now.moment, &now, &mut Vec::new()).map_or_else(|e| e.status() as i32, |_| 0)
}
