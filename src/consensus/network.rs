//! openraft's outgoing messages.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::core::Core;
use super::form::{self, Ballot, Place};
use super::snapshot::{About, Data, parts};
use super::types::{Config, LogId, Member, SmSnapshot, Vote};
use super::wire::{Answer, Ask, Lane};
use crate::base::codec::{self, Kind};
use crate::base::{Error, Result, Status};

/// Appends to one follower that are on their way at once.
const PIPELINE: usize = 64;
/// A follower that syncs slowly is still a follower: appends are waited for at least this long.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a snapshot in one message.
const CHUNK: usize = 512 << 10;

type Rpc<T> = std::result::Result<T, RPCError<Config>>;

/// Makes the connections.
pub(super) struct Links(pub Arc<Core>);

/// One way to one member.
#[derive(Clone)]
pub(super) struct Link {
    core: Arc<Core>,
    to: Member,
    lane: Lane,
}

impl RaftNetworkFactory<Config> for Links {
    type Network = Link;

    async fn new_client(&mut self, _target: u64, node: &Member) -> Link {
        Link { core: self.0.clone(), to: node.clone(), lane: Lane::Bulk }
    }

    async fn new_heartbeat_client(&mut self, _target: u64, node: &Member) -> Link {
        Link { core: self.0.clone(), to: node.clone(), lane: Lane::Control }
    }

    async fn new_snapshot_client(&mut self, _target: u64, node: &Member) -> Link {
        Link { core: self.0.clone(), to: node.clone(), lane: Lane::Snapshot }
    }
}

fn failed(error: &Error) -> RPCError<Config> {
    match error.status() {
        // Backed off from, longer each time.
        Status::Io | Status::DataForeign | Status::DataLost | Status::DataLocked => RPCError::Unreachable(Unreachable::from_string(error)),
        _ => RPCError::Network(NetworkError::from_string(error)),
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(Status::Internal, format!("an answer that does not fit: {answer:?}"))
}

impl Link {
    async fn ask(&self, lane: Lane, ask: &Ask, records: &[bytes::Bytes], timeout: Duration) -> Result<Answer> {
        self.core.ask(&self.to, lane, ask, records, timeout).await
    }

    async fn append(self, rpc: AppendEntriesRequest<Config>, timeout: Duration) -> Rpc<AppendEntriesResponse<Config>> {
        let records = rpc.entries.iter().map(form::record).collect::<Result<Vec<_>>>().map_err(|e| failed(&e))?;
        let ask =
            Ask::Append { ballot: (&rpc.vote).into(), prev: rpc.prev_log_id.map(Place::from), commit: rpc.leader_commit.map(Place::from) };
        let timeout = if self.lane == Lane::Bulk { timeout.max(APPEND_TIMEOUT) } else { timeout };
        match self.ask(self.lane, &ask, &records, timeout).await.map_err(|e| failed(&e))? {
            Answer::Appended => Ok(AppendEntriesResponse::Success),
            Answer::AppendedUpTo(place) => Ok(AppendEntriesResponse::PartialSuccess(place.map(LogId::from))),
            Answer::Conflict => Ok(AppendEntriesResponse::Conflict),
            Answer::HigherVote(ballot) => Ok(AppendEntriesResponse::HigherVote(ballot.into())),
            other => Err(failed(&unexpected(&other))),
        }
    }

    async fn ballot(&self, rpc: VoteRequest<Config>, pre: bool, option: &RPCOption) -> Rpc<VoteResponse<Config>> {
        let last = rpc.last_log_id.map(Place::from);
        let ask = Ask::Vote { ballot: (&rpc.vote).into(), last, transfer: rpc.leadership_transfer, pre };
        match self.ask(Lane::Control, &ask, &[], option.hard_ttl()).await.map_err(|e| failed(&e))? {
            Answer::Voted { ballot, last, granted } => Ok(VoteResponse::new(Vote::from(ballot), last.map(LogId::from), granted)),
            other => Err(failed(&unexpected(&other))),
        }
    }

    async fn send_snapshot(&self, ballot: Ballot, snapshot: SmSnapshot, timeout: Duration) -> Result<Ballot> {
        let Data::Stored(store) = snapshot.snapshot else {
            return Err(Error::new(Status::Internal, "a snapshot that is not stored cannot be sent"));
        };
        let id = self.core.options.boot ^ (self.core.transfers.fetch_add(1, Relaxed) << 32);
        let mut stored = parts(store, self.core.shared.inline)?;
        let gone = || Error::new(Status::Internal, "the stored snapshot is cut short");
        let about = stored.recv().await.ok_or_else(gone)??;
        self.expect_done(&Ask::SnapshotBegin { id, about }, timeout).await?;
        let mut number = 0;
        while let Some(part) = stored.recv().await {
            for chunk in part?.chunks(CHUNK) {
                self.expect_done(&Ask::SnapshotPart { id, number, bytes: chunk.to_vec() }, timeout).await?;
                number += 1;
            }
        }
        // Putting a large one in place takes longer than taking a part of it.
        match self.ask(Lane::Snapshot, &Ask::SnapshotEnd { id, parts: number, ballot }, &[], timeout * 12).await? {
            Answer::Installed(ballot) => Ok(ballot),
            other => Err(unexpected(&other)),
        }
    }

    async fn expect_done(&self, ask: &Ask, timeout: Duration) -> Result<()> {
        match self.ask(Lane::Snapshot, ask, &[], timeout).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// What is known of the snapshot that is being sent.
pub(super) fn about_of(bytes: &[u8], cap: usize) -> Result<About> {
    codec::decode(Kind::Meta, bytes, cap)
}

impl RaftNetworkV2<Config> for Link {
    type SnapshotData = Data;

    async fn append_entries(&mut self, rpc: AppendEntriesRequest<Config>, option: RPCOption) -> Rpc<AppendEntriesResponse<Config>> {
        self.clone().append(rpc, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(&'s mut self, input: S, option: RPCOption) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Config>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        let link = self.clone();
        let answers = input
            .map(move |rpc| {
                let (link, timeout) = (link.clone(), option.hard_ttl());
                let prev = rpc.prev_log_id;
                let last = rpc.entries.last().map_or(prev, |e| Some(e.log_id));
                async move { (prev, last, link.append(rpc, timeout).await) }
            })
            .buffered(PIPELINE);
        // The stream ends with the first answer after which the rest cannot be right.
        let results = stream::unfold(Some((Box::pin(answers), None)), |going_on| async move {
            let (mut answers, had): (_, Option<LogId>) = going_on?;
            let (prev, last, answer) = answers.next().await?;
            let (result, goes_on) = match answer {
                Ok(AppendEntriesResponse::Success) => (Ok(Ok(last)), true),
                Ok(AppendEntriesResponse::PartialSuccess(upto)) => (Ok(Ok(upto)), upto == last),
                Ok(AppendEntriesResponse::HigherVote(vote)) => (Ok(Err(StreamAppendError::HigherVote(vote))), false),
                // Two of these overtook each other on the way. Taken for a conflict it would say that the follower has lost what it has just taken.
                Ok(AppendEntriesResponse::Conflict) if prev.is_some() && prev <= had => {
                    (Err(failed(&Error::new(Status::Unavailable, "entries came out of their order"))), false)
                }
                Ok(AppendEntriesResponse::Conflict) => match prev {
                    Some(prev) => (Ok(Err(StreamAppendError::Conflict(prev))), false),
                    None => (Err(failed(&Error::new(Status::Internal, "the start of the log is refused"))), false),
                },
                Err(error) => (Err(error), false),
            };
            Some((result, goes_on.then_some((answers, last.max(had)))))
        });
        let results: BoxStream<'s, _> = Box::pin(results);
        Box::pin(async move { Ok(results) })
    }

    async fn vote(&mut self, rpc: VoteRequest<Config>, option: RPCOption) -> Rpc<VoteResponse<Config>> {
        self.ballot(rpc, false, &option).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Config>, option: RPCOption) -> Rpc<VoteResponse<Config>> {
        self.ballot(rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SmSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let timeout = option.hard_ttl().max(Duration::from_secs(5));
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot((&vote).into(), snapshot, timeout) => match sent {
                Ok(ballot) => Ok(SnapshotResponse::new(ballot.into())),
                Err(error) => Err(failed(&error).into()),
            },
        }
    }

    async fn transfer_leader(&mut self, rpc: TransferLeaderRequest<Config>, option: RPCOption) -> Rpc<TransferLeaderResponse<Config>> {
        let ask =
            Ask::TakeOver { ballot: rpc.from_leader().into(), to: *rpc.to_node_id(), last: rpc.last_log_id().map(|l| Place::from(*l)) };
        match self.ask(Lane::Control, &ask, &[], option.hard_ttl()).await.map_err(|e| failed(&e))? {
            Answer::TakenOver => Ok(Ok(())),
            Answer::VoteChanged { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }))
            }
            Answer::NotFlushed { expected, actual } => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: expected.map(LogId::from), actual: actual.map(LogId::from) }))
            }
            other => Err(failed(&unexpected(&other))),
        }
    }
}
