//! What the orchestrator asks its host: whether a run may begin, and which shards there are.

use std::ffi::c_void;
use std::sync::Arc;

use super::args::text;
use super::guard::{guard_clone, guard_or};
use super::host::Host;
use super::orchestrator::{OrchestratorObject, tenure_orchestrator};
use super::types::{tenure_bytes, tenure_error};
use crate::base::{Error, Result, Status};
use crate::node::orchestrator::ShardList;

/// Longest name that is looked at.
const NAME_MAX: usize = 1024;
/// Most nodes of a shard.
const NODES_MAX: usize = 1024;

/// Says whether a run of a schedule may begin on this node: #TENURE_OK if it may, any other number if not; then err->message, which it finds empty, may
/// say why. `target` is empty for a singleton. Called on a thread of the library, several at a time; one that takes longer than 5 s has said no. It
/// must not throw, longjmp or end its thread, nor close the orchestrator. The texts are valid until it returns.
pub type tenure_run_gate_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, schedule: tenure_bytes, target: tenure_bytes, err: *mut tenure_error) -> i32>;

/// Given to a #tenure_topology_fn, and valid until that returns: takes one shard with the names of the nodes that have it. Returns #TENURE_OK, or
/// #TENURE_INVALID_ARGUMENT, and then the whole answer counts as a failure.
pub type tenure_shard_fn =
    Option<unsafe extern "C" fn(shards: *mut c_void, shard: tenure_bytes, nodes: *const tenure_bytes, count: usize) -> i32>;

/// Names the shards of a schedule: calls `add` with `shards` once for each. Returns #TENURE_OK, or any other number when it cannot tell; then
/// err->message, which it finds empty, may say why. Called on a thread of the library. It must not throw, longjmp or end its thread, nor close the
/// orchestrator.
pub type tenure_topology_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        schedule: tenure_bytes,
        add: tenure_shard_fn,
        shards: *mut c_void,
        err: *mut tenure_error,
    ) -> i32,
>;

/// Adds a gate: asked before each attempt that begins on this node. While it refuses, or does not answer within 5 s, the run is put off and asked about
/// again 5 s later, with what it said as the run's reason; nothing fails by it.
///
/// Parameters: orchestrator; gate - see #tenure_run_gate_fn; user - passed to it; free - called once with `user` when no call of the gate goes on
/// or will come, on any thread, not in a forked child; or NULL; err - or NULL.
/// Returns: #TENURE_OK; #TENURE_INVALID_ARGUMENT; #TENURE_CLOSED; #TENURE_POISONED; #TENURE_BAD_HANDLE; #TENURE_FORKED.
/// Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_add_gate(
    orchestrator: tenure_orchestrator,
    gate: tenure_run_gate_fn,
    user: *mut c_void,
    free: Option<unsafe extern "C" fn(user: *mut c_void)>,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let host = Host::new(gate.ok_or_else(|| Error::invalid("gate", "is NULL"))?, user, free);
        let own = host.clone();
        host.hand(|| {
            o.0.add_gate(Arc::new(move |schedule, target| {
                let (schedule, target) = (tenure_bytes::of(schedule.id.as_bytes()), tenure_bytes::of(target.as_bytes()));
                // SAFETY: the host's function, called as the header says.
                own.ask("gate", |gate, user, err| unsafe { gate(user, schedule, target, err) }).err()
            }))
        })
    })
}

/// Says which shards there are, for schedules of scope `each_shard`. It is asked before each of their ticks, on the node that gives out work: every node
/// needs it that may come to do so. When it fails, or does not answer within 5 s, the shards are taken to be what they were, and status and
/// health say so; before its first answer there are none.
///
/// Parameters: orchestrator; topology - see #tenure_topology_fn; NULL for none; user - passed to it; free - called once with `user` when no call goes on
/// or will come, on any thread, not in a forked child; or NULL; err - or NULL.
/// Returns: as tenure_orchestrator_add_gate(). Memory: `user` is the library's from success until it calls `free`, and stays the caller's otherwise,
/// also where topology is NULL. Threads: any, also in callbacks. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tenure_orchestrator_set_topology(
    orchestrator: tenure_orchestrator,
    topology: tenure_topology_fn,
    user: *mut c_void,
    free: Option<unsafe extern "C" fn(user: *mut c_void)>,
    err: *mut tenure_error,
) -> i32 {
    guard_clone(orchestrator.id, err, |o: OrchestratorObject| {
        let Some(topology) = topology else { return o.0.set_topology(None) };
        let host = Host::new(topology, user, free);
        let own = host.clone();
        host.hand(|| {
            o.0.set_topology(Some(Arc::new(move |schedule| {
                let mut answer = Answer::default();
                let (id, place) = (tenure_bytes::of(schedule.id.as_bytes()), (&raw mut answer).cast::<c_void>());
                // SAFETY: the host's function, called as the header says; `answer` outlives the call.
                own.ask("topology", |topology, user, err| unsafe { topology(user, id, Some(add), place, err) })?;
                answer.wrong.map_or(Ok(answer.shards), Err)
            })))
        })
    })
}

/// What a topology has named so far.
#[derive(Default)]
struct Answer {
    shards: ShardList,
    wrong: Option<String>,
}

/// # Safety
/// As the header says of #tenure_shard_fn.
unsafe extern "C" fn add(shards: *mut c_void, shard: tenure_bytes, nodes: *const tenure_bytes, count: usize) -> i32 {
    // SAFETY: the caller passes on what the topology was given, on the thread and for the time of that call.
    let Some(answer) = (unsafe { shards.cast::<Answer>().as_mut() }) else { return Status::InvalidArgument as i32 };
    let panicked = || Err(Error::new(Status::Panic, "a panic while a shard was taken"));
    // SAFETY: the header asks for readable bytes.
    match guard_or(panicked(), || unsafe { named(shard, nodes, count) }) {
        Ok(one) => {
            answer.shards.push(one);
            Status::Ok as i32
        }
        Err(why) => {
            answer.wrong.get_or_insert_with(|| why.message().to_owned());
            why.status() as i32
        }
    }
}

/// # Safety
/// What the arguments point to must be readable.
unsafe fn named(shard: tenure_bytes, nodes: *const tenure_bytes, count: usize) -> Result<(String, Vec<String>)> {
    // SAFETY: the caller's promise.
    let shard = unsafe { text(shard, "shard", NAME_MAX)? }.to_owned();
    if count > NODES_MAX {
        return Err(Error::invalid("nodes", format_args!("{count} are above {NODES_MAX}")));
    }
    if count > 0 && (nodes.is_null() || !nodes.is_aligned()) {
        return Err(Error::invalid("nodes", "is NULL, or not aligned"));
    }
    // SAFETY: the caller's promise, and the pointer has just been looked at.
    let nodes = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(nodes, count) } };
    // SAFETY: as above.
    let nodes = nodes.iter().map(|node| unsafe { text(*node, "node", NAME_MAX) }.map(str::to_owned));
    Ok((shard, nodes.collect::<Result<_>>()?))
}
