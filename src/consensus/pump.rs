//! Gets operations into the log: on the leader by proposing, elsewhere by handing them to the leader.
//!
//! Everything that gathered while the previous proposal was being made becomes one entry.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::ClientWriteError;
use openraft::raft::ClientWriteResult;

use super::change;
use super::core::{Core, Role, now};
use super::queue::{Batch, unavailable};
use super::types::{Command, Config, Reply};
use super::wire::{Answer, Ask, Lane, Told};
use crate::base::{Error, Result, SessionId, Status};
use crate::ledger::{Entry, Op, Request};

/// Entries that may be on their way at once: while one is being written the next one gathers.
const DEPTH: usize = 2;
/// Batches that may be on their way to the leader at once.
const FORWARD_DEPTH: usize = 4;
/// The clock is moved each time that a quarter of what is left until something can run out has passed, but no more and no less
/// often than this: what has passed since it was last moved is lost when the leader changes.
const TICK_MS: std::ops::RangeInclusive<u64> = 50..=500;

fn tick() -> Request {
    Request { session: SessionId(0), seq: 0, op: Op::Tick }
}

/// Runs until the node ends.
pub(super) async fn run(core: Arc<Core>) {
    let Ok(raft) = core.raft() else { return };
    let mut roles = raft.server_metrics();
    let mut ended = core.ended();
    loop {
        if ended.borrow_and_update().is_some() {
            return;
        }
        let late = core.queue.sweep();
        let (role, held) = (core.role(), core.queue.held());
        let mut wake = late.unwrap_or_else(|| now() + Duration::from_secs(3600));
        match role {
            Role::Leader { .. } if !core.is_founded() => super::members::declare(&core),
            _ if held.is_some() => wake = held.map_or(wake, |h| wake.min(h)),
            Role::Leader { term } => {
                if core.queue.under_way() < DEPTH
                    && let Some(batch) = core.queue.take()
                {
                    propose(&core, batch, term).await;
                    continue;
                }
                if let Some(after) = tick_due(&core, term) {
                    if after.is_zero() && core.queue.under_way() == 0 {
                        propose(&core, Batch::of(tick()), term).await;
                        continue;
                    }
                    if !after.is_zero() {
                        wake = wake.min(now() + after);
                    }
                }
            }
            Role::Follower { leader } => {
                if core.queue.under_way() < FORWARD_DEPTH
                    && let Some(batch) = core.queue.take()
                {
                    let (requests, early) = (batch.requests.clone(), batch.early());
                    let number = core.queue.set_off(batch);
                    drop(super::core::spawn(forward(core.clone(), leader, number, requests, early)));
                    continue;
                }
            }
            Role::Lost => {}
        }
        tokio::select! {
            biased;
            () = core.queue.stirred.notified() => {}
            _ = roles.changed() => {}
            _ = ended.changed() => {}
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// After what time the ledger's clock must be moved; `None` while nothing can run out.
fn tick_due(core: &Core, term: u64) -> Option<Duration> {
    let live = core.shared.live();
    let clock = live.state.ledger.clock_ms();
    let token = live.state.roster.next_deadline().filter(|at| *at > clock);
    let left = live.state.ledger.next_deadline().into_iter().chain(token).min()?.saturating_sub(clock);
    let anchor = live.state.ledger.anchor();
    drop(live);
    if (anchor.term, anchor.boot) != (term, core.options.boot) {
        // Time does not pass before the first stamp of a term is applied.
        return Some(Duration::ZERO);
    }
    let step = left.min((left / 4).clamp(*TICK_MS.start(), *TICK_MS.end()));
    let passed = core.stamper.lock().unwrap_or_else(PoisonError::into_inner).ticks_ms().saturating_sub(anchor.ticks_ms);
    Some(Duration::from_millis(step.saturating_sub(passed)))
}

/// Makes one entry of a batch.
async fn propose(core: &Arc<Core>, mut batch: Batch, term: u64) {
    let stamp = core.stamper.lock().unwrap_or_else(PoisonError::into_inner).stamp(term);
    let entry = Entry { stamp, ops: std::mem::take(&mut batch.requests) };
    let encoded = change::operations(&entry);
    batch.requests = entry.ops;
    let bytes = match encoded {
        Ok(bytes) => bytes,
        Err(error) => {
            return batch.fail(&error);
        }
    };
    {
        let live = core.shared.live();
        batch.settle_early(|request| match &request.op {
            Op::Release { key, token } => live.state.ledger.frees(key, request.session, *token),
            _ => false,
        });
    }
    let number = core.queue.set_off(batch);
    let command = Command { bytes, batch: number };
    let told = core.clone();
    let reply = Reply::new(move |result: ClientWriteResult<Config>| {
        let Some(batch) = told.queue.arrive(number) else { return };
        match result {
            Ok(response) => batch.answer(response.data.into_iter().map(Ok)),
            // Nothing has been appended: the leader has gone, or its majority has not answered lately.
            Err(ClientWriteError::ForwardToLeader(_)) => told.queue.put_back(batch, false),
            Err(ClientWriteError::LogEntryDiscarded(_)) => told.queue.put_back(batch, true),
            Err(other) => batch.fail(&unavailable(other.to_string())),
        }
    });
    let sent = match core.raft() {
        Ok(raft) => raft.client_write_ff(command, Some(reply)).await.map_err(super::serve::fatal),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        core.end(&error);
    }
}

async fn forward(core: Arc<Core>, leader: u64, number: u64, requests: Vec<Request>, early: Vec<bool>) {
    let answer = tokio::select! {
        biased;
        answer = send(&core, leader, requests, early) => answer,
        // One that is stopped or cut off does not say that it leads no more.
        () = succeeded(&core, leader) => Err(unavailable("another leader has been elected")),
    };
    let Some(batch) = core.queue.arrive(number) else { return };
    match answer {
        Ok(Answer::Operations(told)) => batch.answer(told.into_iter().map(|t| match t {
            Told::Outcome(outcome) => Ok(outcome),
            Told::Failed(failure) => Err(failure.into()),
        })),
        Ok(Answer::NotLeader(_)) => core.queue.put_back(batch, false),
        Ok(other) => batch.fail(&Error::new(Status::Internal, format!("an answer that does not fit: {other:?}"))),
        Err(error) => {
            tracing::debug!(node = %core.me.name, %error, "operations were handed to the leader without an answer");
            core.queue.put_back(batch, error.status() != Status::Io);
        }
    }
    core.queue.stirred.notify_one();
}

/// Waits until this node knows of another leader than that one.
async fn succeeded(core: &Core, leader: u64) {
    let Ok(raft) = core.raft() else { return };
    let mut roles = raft.server_metrics();
    loop {
        match core.role() {
            Role::Leader { .. } => return,
            Role::Follower { leader: now } if now != leader => return,
            _ => {}
        }
        if roles.changed().await.is_err() {
            return;
        }
    }
}

async fn send(core: &Arc<Core>, leader: u64, ops: Vec<Request>, early: Vec<bool>) -> Result<Answer> {
    let Some(member) = core.member(leader) else { return Ok(Answer::NotLeader(None)) };
    let timeout = core.options.timeout;
    core.ask(&member, Lane::Client, &Ask::Operations { ops, early, timeout_ms: timeout.as_millis() as u64 }, &[], timeout).await
}
