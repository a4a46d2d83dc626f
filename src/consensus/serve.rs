//! What other members ask of this node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::{ReadPolicy, Snapshot};
use tokio::sync::oneshot;

use super::core::{Core, Role};
use super::form::{self, Place};
use super::members;
use super::network::about_of;
use super::snapshot::{Data, Incoming};
use super::types::{LogId, Vote};
use super::wire::{self, Answer, Ask, Sender, Told};
use crate::base::{Error, Result, Status};
use crate::ledger::Request;

const ABOUT_CAP: usize = 16 << 20;

/// A failure of openraft's own: this node is not able to take part any more.
pub(super) fn fatal(error: impl std::fmt::Display) -> Error {
    Error::new(Status::Poisoned, format!("consensus has ended: {error}"))
}

/// What others hear of what failed here. What is wrong with this member is not wrong with them or with the cluster: they ask
/// another one, and take what they asked for as in doubt.
pub(crate) fn elsewhere(error: Error) -> Error {
    match error.status() {
        Status::Unavailable | Status::InvalidArgument | Status::Limit | Status::Misuse => error,
        _ => super::queue::unavailable(format!("that member takes no part any more: {}", error.message())),
    }
}

/// Answers one message.
pub(super) async fn serve(core: Arc<Core>, from: Option<(String, u128)>, body: Bytes) -> Result<Bytes> {
    let (sender, ask, records) = wire::asked(body)?;
    if from.is_some_and(|(name, disk)| (name.as_str(), disk) != (sender.name.as_str(), sender.sighting.disk)) {
        return Err(Error::new(Status::InvalidArgument, "a message under another name than its connection"));
    }
    // Not even that the sender is refused.
    if let Some(why) = core.ended().borrow().clone() {
        return Err(elsewhere(why));
    }
    let answer = match core.admit(&sender) {
        Ok(()) => answer(&core, &sender, ask, records).await.map_err(elsewhere)?,
        Err(refused) => Answer::Failed((&refused).into()),
    };
    wire::answer(&core.me, &answer).map(Bytes::from)
}

async fn answer(core: &Arc<Core>, sender: &Sender, ask: Ask, records: Vec<Bytes>) -> Result<Answer> {
    let raft = core.raft()?;
    Ok(match ask {
        Ask::Append { ballot, prev, commit } => {
            let rpc = AppendEntriesRequest {
                vote: ballot.into(),
                prev_log_id: prev.map(LogId::from),
                entries: records.iter().map(form::entry).collect::<Result<_>>()?,
                leader_commit: commit.map(LogId::from),
            };
            match raft.append_entries(rpc).await.map_err(fatal)? {
                AppendEntriesResponse::Success => Answer::Appended,
                AppendEntriesResponse::PartialSuccess(upto) => Answer::AppendedUpTo(upto.map(Place::from)),
                AppendEntriesResponse::Conflict => Answer::Conflict,
                AppendEntriesResponse::HigherVote(vote) => Answer::HigherVote((&vote).into()),
            }
        }
        Ask::Vote { ballot, last, transfer, pre } => {
            let mut rpc = VoteRequest::new(Vote::from(ballot), last.map(LogId::from));
            rpc.leadership_transfer = transfer;
            let voted = if pre { raft.pre_vote(rpc).await } else { raft.vote(rpc).await };
            let VoteResponse { vote, vote_granted: granted, last_log_id } = voted.map_err(fatal)?;
            Answer::Voted { ballot: (&vote).into(), last: last_log_id.map(Place::from), granted }
        }
        Ask::TakeOver { ballot, to, last } => {
            let rpc = TransferLeaderRequest::new(ballot.into(), to, last.map(LogId::from));
            match raft.handle_transfer_leader(rpc).await.map_err(fatal)? {
                Ok(()) => Answer::TakenOver,
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    Answer::VoteChanged { expected: (&expected).into(), actual: (&actual).into() }
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    Answer::NotFlushed { expected: expected.map(Place::from), actual: actual.map(Place::from) }
                }
            }
        }
        Ask::SnapshotBegin { id, about } => {
            let mut incoming = Incoming::begin(id, core.shared.inline)?;
            about_of(&about, ABOUT_CAP)?;
            incoming.push(about).await?;
            // A sender that begins anew has given up what it had begun before.
            *core.incoming.lock().await = Some(incoming);
            Answer::Done
        }
        Ask::SnapshotPart { id, number, bytes } => {
            let mut slot = core.incoming.lock().await;
            let taken = match slot.as_mut() {
                // The first part of all was what the snapshot is of.
                Some(incoming) if incoming.id == id && incoming.next == number + 1 => incoming.push(bytes).await,
                _ => Err(super::queue::unavailable("the snapshot is not being taken, or a part is missing")),
            };
            if taken.is_err() {
                *slot = None;
            }
            taken?;
            Answer::Done
        }
        Ask::SnapshotEnd { id, parts, ballot } => {
            let incoming = core.incoming.lock().await.take_if(|i| i.id == id && i.next == parts + 1);
            let Some(incoming) = incoming else {
                return Err(super::queue::unavailable("the snapshot is not being taken, or a part is missing"));
            };
            let (about, state) = incoming.finish().await?;
            let snapshot = Snapshot { meta: about.meta()?, snapshot: Data::Received(Box::new(state)) };
            let done = raft.install_full_snapshot(ballot.into(), snapshot).await.map_err(fatal)?;
            Answer::Installed((&done.vote).into())
        }
        Ask::Operations { ops, early, timeout_ms } => operations(core, ops, &early, Duration::from_millis(timeout_ms)).await,
        Ask::ReadIndex => match read_index(core).await {
            Ok(index) => Answer::ReadFrom(index),
            Err(_) => Answer::NotLeader(None),
        },
        Ask::Probe => {
            let founded = raft.is_initialized().await.map_err(fatal)?;
            if founded && !core.knows_members() {
                // What is told of the members lags behind the log a little: the sender would be taken for a stranger.
                return Err(super::queue::unavailable("the node is learning who the members are"));
            }
            Answer::Probed { founded, member: core.member(wire::number_of(sender.sighting.disk)).is_some() }
        }
        Ask::Join { token } => match core.role() {
            Role::Leader { .. } if core.is_founded() => done(members::admit_member(core, sender.member(), token).await),
            _ => not_leader(core),
        },
        Ask::Order(order) => match core.role() {
            Role::Leader { .. } => done(members::obey(core, order).await),
            _ => not_leader(core),
        },
    })
}

fn done(result: Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed((&error).into()),
    }
}

fn not_leader(core: &Core) -> Answer {
    let leader = match core.role() {
        Role::Follower { leader } => core.member(leader),
        _ => None,
    };
    Answer::NotLeader(leader.map(|m| m.address))
}

async fn operations(core: &Arc<Core>, ops: Vec<Request>, early: &[bool], timeout: Duration) -> Answer {
    // Never handed on from here: two nodes that each take the other for the leader would send it back and forth.
    if !matches!(core.role(), Role::Leader { .. }) {
        return not_leader(core);
    }
    let waiting: Vec<_> = ops
        .into_iter()
        .enumerate()
        .map(|(i, request)| {
            let (tell, told) = oneshot::channel();
            let early = early.get(i).copied().unwrap_or(false);
            core.queue.submit(request, timeout, early, Box::new(move |result| drop(tell.send(result))));
            told
        })
        .collect();
    let mut answers = Vec::with_capacity(waiting.len());
    for told in waiting {
        answers.push(match told.await {
            Ok(Ok(outcome)) => Told::Outcome(outcome),
            Ok(Err(error)) => Told::Failed((&elsewhere(error)).into()),
            Err(_) => Told::Failed((&Error::from(Status::Unavailable)).into()),
        });
    }
    Answer::Operations(answers)
}

/// On the leader: the index from which a read sees everything that was answered before it was asked for.
pub(super) async fn read_index(core: &Arc<Core>) -> Result<u64> {
    let (at, _) = core.raft()?.get_read_log_id(ReadPolicy::ReadIndex).await.map_err(|e| super::queue::unavailable(e.to_string()))?;
    // A release may have been answered as soon as it had its place in this log, before it was committed.
    let (last, _) = core.shared.log.ends();
    Ok(at.log_id().index.max(last.map_or(0, |p| p.index)))
}
