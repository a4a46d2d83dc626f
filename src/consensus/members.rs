//! Who belongs to the cluster: founding it, coming in, going out, handing over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::ClientWriteResult;

use super::change::{self, Note};
use super::core::{Core, Role, now};
use super::queue::{unavailable, unreached};
use super::serve::fatal;
use super::types::{Command, Config, Member, Reply};
use super::wire::{Answer, Ask, Lane, Order, Sender, number_of};
use crate::base::{Error, Result, Status};

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two tries to found or to join.
const RETRY: Duration = Duration::from_millis(100);
/// A node that comes in may need a snapshot first.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a leader looks whether to write down what members have acknowledged.
const MARK_EVERY: Duration = Duration::from_secs(5);
/// It does so for members that have acknowledged this many entries since the last time.
const MARK_AFTER: u64 = 64;

/// Has the log remember a node's sighting, once.
pub(super) fn note_sighting(core: &Arc<Core>, sender: &Sender) {
    let key = (sender.name.clone(), sender.sighting.boot);
    if !core.noting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
        return;
    }
    let (core, note) = (core.clone(), Note::Seen { name: sender.name.clone(), sighting: sender.sighting });
    drop(super::core::spawn(async move {
        if let Err(error) = write_note(&core, &note).await {
            tracing::debug!(%error, "a node's sighting is not noted yet");
        }
        core.noting.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }));
}

async fn write_note(core: &Arc<Core>, note: &Note) -> Result<()> {
    let command = Command::new(change::note(note)?);
    let (tell, told) = tokio::sync::oneshot::channel();
    let reply = Reply::new(move |result: ClientWriteResult<Config>| drop(tell.send(result.map(drop))));
    core.raft()?.client_write_ff(command, Some(reply)).await.map_err(fatal)?;
    match told.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable("the proposal was given up")),
    }
}

/// On the leader: writes down what tells the cluster from others of its name, before anything else. One attempt at a time.
pub(super) fn declare(core: &Arc<Core>) {
    if core.declaring.swap(true, Relaxed) {
        return;
    }
    // Whoever leads first says what it is. The disk's number is random, and so is that of its opening.
    let lineage = (core.options.disk ^ (u128::from(core.options.boot) << 64)).max(1);
    let note = Note::Founded { lineage, params: core.options.params, tokens: core.options.tokens_required };
    let core = core.clone();
    drop(super::core::spawn(async move {
        if let Err(error) = write_note(&core, &note).await {
            tracing::debug!(%error, "the cluster's first entry is not written yet");
            tokio::time::sleep(RETRY).await;
        }
        core.declaring.store(false, Relaxed);
        core.queue.stirred.notify_one();
    }));
}

/// What members have acknowledged is written down now and then, so that one that comes back with less is known for what it is
/// whoever leads by then.
pub(super) async fn mark(core: Arc<Core>) {
    let mut ended = core.ended();
    while ended.borrow_and_update().is_none() {
        tokio::select! {
            biased;
            _ = ended.changed() => {}
            () = tokio::time::sleep(MARK_EVERY) => {}
        }
        let Role::Leader { term } = core.role() else { continue };
        let Ok((members, _)) = members(&core) else { continue };
        let acknowledged = core.acknowledged(term);
        let ends = to_mark(&core, &members, &acknowledged);
        if !ends.is_empty()
            && let Err(error) = write_note(&core, &Note::Marked { ends }).await
        {
            tracing::debug!(%error, "what members have acknowledged is not written down yet");
        }
    }
}

fn to_mark(core: &Core, members: &BTreeMap<u64, Member>, acknowledged: &BTreeMap<u64, u64>) -> Vec<(String, u128, u64)> {
    let live = core.shared.live();
    let committed = live.state.applied.map_or(0, |at| at.index + 1);
    let mut ends = Vec::new();
    for (number, member) in members.iter().filter(|(number, _)| **number != core.number) {
        let end = acknowledged.get(number).copied().unwrap_or(0).min(committed);
        if live.state.roster.settled(&member.name, member.disk).is_some_and(|settled| end > settled + MARK_AFTER) {
            ends.push((member.name.clone(), member.disk, end));
        }
    }
    ends
}

/// Founds the cluster, if this node is the founder with the lowest name (or, of seeds, the lowest address). It alone does, and only
/// when all founders are there and none of them has a log: so there is one cluster, whoever starts first, and a node that lost
/// its disk founds none. The other founders only look whether there is a cluster that they should be of and are not.
pub(super) async fn found(core: Arc<Core>) {
    let options = &core.options;
    let mut founders = options.founders.clone();
    if founders.is_empty() && options.seeds.contains(&options.address) {
        founders = options.seeds.iter().map(|address| (String::new(), address.clone())).collect();
    }
    founders.sort();
    let mut ended = core.ended();
    while !founders.is_empty() && ended.borrow_and_update().is_none() {
        match try_to_found(&core, &founders).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => core.end(&error),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether there is nothing left to do.
async fn try_to_found(core: &Arc<Core>, founders: &[(String, String)]) -> Result<bool> {
    let raft = core.raft()?;
    let named = !core.options.founders.is_empty();
    let me = |name: &str, address: &str| if named { name == core.options.name } else { address == core.options.address };
    let mut members = BTreeMap::from([(core.number, core.me.member())]);
    let mut missing = false;
    for (name, address) in founders.iter().filter(|(name, address)| !me(name, address)) {
        if raft.is_initialized().await.map_err(fatal)? {
            return Ok(true);
        }
        let to = Member { name: name.clone(), address: address.clone(), disk: 0 };
        match probe(core, &to).await {
            Ok((sender, Answer::Probed { founded: true, member: false })) => {
                missing = true;
                if named {
                    let me = &core.options.name;
                    let why = format!("node {me}: {name} belongs to a cluster that does not know this data directory");
                    core.refused_by(&sender, &Error::new(Status::DataForeign, why));
                }
            }
            Ok((_, Answer::Probed { founded: true, .. })) => missing = true,
            Ok((sender, _)) => drop(members.insert(number_of(sender.sighting.disk), sender.member())),
            Err(error) => {
                tracing::debug!(%error, founder = %address, "not there yet");
                missing = true;
            }
        }
    }
    if missing || founders.first().is_none_or(|(name, address)| !me(name, address)) {
        return Ok(false);
    }
    if members.len() != founders.len() {
        return Err(Error::new(Status::DataForeign, "two founders have the same data directory, or one has two addresses"));
    }
    match raft.initialize(members).await {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::debug!(%error, "not founded");
            Ok(false)
        }
    }
}

/// Asks a founder who it is; one without a name here is whoever answers.
async fn probe(core: &Arc<Core>, to: &Member) -> Result<(Sender, Answer)> {
    let (sender, answer) = core.ask_anybody(to, Lane::Control, &Ask::Probe, &[], PROBE_TIMEOUT).await?;
    match answer {
        Answer::Probed { .. } if to.name.is_empty() || sender.name == to.name => {
            Ok((Sender { address: to.address.clone(), ..sender }, answer))
        }
        _ => Err(Error::new(Status::Unavailable, format!("{} answers where {} was expected", sender.name, to.name))),
    }
}

/// Asks to be let in, until a leader has done it or has said no. Asking again changes nothing.
pub(super) async fn join(core: Arc<Core>) {
    let mut seeds = core.options.seeds.clone();
    seeds.retain(|seed| *seed != core.options.address);
    let mut ended = core.ended();
    for turn in 0.. {
        if ended.borrow_and_update().is_some() || seeds.is_empty() {
            return;
        }
        let address = seeds[turn % seeds.len()].clone();
        let to = Member { name: String::new(), address, disk: 0 };
        let ask = Ask::Join { token: core.options.join_token };
        match core.ask(&to, Lane::Client, &ask, &[], JOIN_TIMEOUT).await {
            Ok(Answer::Done) => return,
            Ok(Answer::NotLeader(Some(leader))) if leader != core.options.address && !seeds.contains(&leader) => seeds.push(leader),
            Ok(_) => {}
            // Only a leader judges tokens.
            Err(error) if error.status() == Status::Refused => core.end(&error),
            Err(error) => tracing::debug!(%error, seed = %to.address, "not let in yet"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Tells the leader who this is, until one has taken note: a node that may not take part is told so even when nobody hears
/// anything else from it.
pub(super) async fn introduce(core: Arc<Core>) {
    let Ok(raft) = core.raft() else { return };
    let mut roles = raft.server_metrics();
    let mut ended = core.ended();
    while ended.borrow_and_update().is_none() {
        match core.role() {
            Role::Leader { .. } => return core.admit(&core.me).map_or_else(|refused| core.end(&refused), |()| ()),
            Role::Follower { leader } => {
                if let Some(member) = core.member(leader)
                    && core.ask(&member, Lane::Control, &Ask::Probe, &[], PROBE_TIMEOUT).await.is_ok()
                {
                    return;
                }
            }
            Role::Lost => {}
        }
        tokio::select! {
            biased;
            _ = roles.changed() => tokio::time::sleep(RETRY).await,
            _ = ended.changed() => {}
            () = tokio::time::sleep(PROBE_TIMEOUT) => {}
        }
    }
}

fn members(core: &Core) -> Result<(BTreeMap<u64, Member>, BTreeSet<u64>)> {
    let metrics = core.raft()?.server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    Ok((membership.nodes().map(|(id, m)| (*id, m.clone())).collect(), membership.voter_ids().collect()))
}

/// On the leader: lets a node in, first as a learner and, once it has caught up, as a voter.
pub(super) async fn admit_member(core: &Arc<Core>, member: Member, token: Option<[u8; 32]>) -> Result<()> {
    let (known, voters) = members(core)?;
    let number = number_of(member.disk);
    if let Some(other) = known.values().find(|m| m.name == member.name && m.disk != member.disk) {
        return Err(super::roster::Refused::OtherDisk.error(&other.name));
    }
    if core.shared.live().state.roster.is_retired(member.disk) {
        return Err(super::roster::Refused::Removed.error(&member.name));
    }
    if voters.contains(&number) {
        return Ok(());
    }
    let raft = core.raft()?;
    if !known.contains_key(&number) {
        check_token(core, &member, token).await?;
        raft.add_learner(number, member, true).await.map_err(|e| unavailable(e.to_string()))?;
    }
    raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([number])), true).await.map_err(|e| unavailable(e.to_string()))?;
    Ok(())
}

/// On the leader: a node that is new shows a token, where the cluster asks for one.
async fn check_token(core: &Arc<Core>, member: &Member, token: Option<[u8; 32]>) -> Result<()> {
    let refused = |what: &str| Err(Error::new(Status::Refused, format!("node {} is not let in: {what}", member.name)));
    if !core.shared.live().state.roster.tokens_required() {
        return Ok(());
    }
    let Some(hash) = token else { return refused("this cluster asks for a join token, and none was shown") };
    if !core.shared.live().state.roster.was_let_in(&hash, member.disk) {
        write_note(core, &Note::TokenShown { hash, node: member.name.clone(), disk: member.disk }).await?;
    }
    if core.shared.live().state.roster.was_let_in(&hash, member.disk) {
        return Ok(());
    }
    refused("its join token is unknown, has run out, was used, or is another node's")
}

/// On the leader: does what an operator wants.
pub(super) async fn obey(core: &Arc<Core>, order: Order) -> Result<()> {
    let (known, voters) = members(core)?;
    let named = |name: &str| {
        let found = known.iter().find(|(_, m)| m.name == name);
        found.map(|(number, m)| (*number, m.clone())).ok_or_else(|| Error::invalid("name", format_args!("{name} is not a member")))
    };
    match order {
        Order::Remove { name } => {
            let (number, member) = match named(&name) {
                Ok(found) => found,
                Err(unknown) => {
                    let left = core.shared.live().state.roster.disk_of(&name);
                    return match left {
                        Some(disk) => write_note(core, &Note::Retired { name, disk }).await,
                        None => Err(unknown),
                    };
                }
            };
            if number == core.number {
                hand_over(core, None, &voters).await?;
                return Err(unavailable("the leader was to be removed; it has handed over, ask again"));
            }
            remove(core, number, &member, &voters).await
        }
        Order::Transfer { to } => {
            let to = to.map(|name| named(&name)).transpose()?.map(|(number, _)| number);
            hand_over(core, to, &voters).await
        }
        Order::MakeToken { hash, node, ttl_ms } => {
            write_note(core, &Note::TokenMade { hash, node, ttl_ms }).await?;
            if core.shared.live().state.roster.has_token(&hash) {
                return Ok(());
            }
            Err(Error::new(Status::Limit, format!("{} join tokens are good already, which is the limit", super::roster::TOKENS_MAX)))
        }
    }
}

async fn remove(core: &Arc<Core>, number: u64, member: &Member, voters: &BTreeSet<u64>) -> Result<()> {
    let raft = core.raft()?;
    if voters.len() == 1 && voters.contains(&number) {
        return Err(Error::new(Status::Misuse, "the last voter cannot be removed"));
    }
    let gone = BTreeSet::from([number]);
    if voters.contains(&number) {
        raft.change_membership(ChangeMembers::RemoveVoters(gone.clone()), true).await.map_err(|e| unavailable(e.to_string()))?;
    }
    raft.change_membership(ChangeMembers::RemoveNodes(gone), false).await.map_err(|e| unavailable(e.to_string()))?;
    // Last, for until now its acknowledgements were needed. Should this not come to pass, asking again does it.
    write_note(core, &Note::Retired { name: member.name.clone(), disk: member.disk }).await
}

/// On the leader: gives the leadership away, to the voter that is furthest if none is named, and waits until it has gone.
async fn hand_over(core: &Arc<Core>, to: Option<u64>, voters: &BTreeSet<u64>) -> Result<()> {
    let raft = core.raft()?;
    let furthest = || {
        let metrics = raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.iter().flatten();
        let others = matched.filter(|(n, at)| voters.contains(n) && **n != core.number && at.is_some());
        others.max_by_key(|(_, at)| at.map(|a| a.index)).map(|(n, _)| *n)
    };
    let to = match to {
        Some(to) if to == core.number => return Ok(()),
        Some(to) => to,
        None => furthest().ok_or_else(|| unavailable("there is no other voter to hand over to"))?,
    };
    if !voters.contains(&to) {
        return Err(Error::invalid("name", "is not a voter"));
    }
    raft.trigger().transfer_leader(to).await.map_err(fatal)?;
    let mut roles = raft.server_metrics();
    let waited = tokio::time::timeout(core.options.timing.election_max * 5, async {
        while matches!(core.role(), Role::Leader { .. }) {
            if roles.changed().await.is_err() {
                return;
            }
        }
    });
    waited.await.map_err(|_| unavailable("the leadership was not taken over in time"))
}

/// Sends an order to the leader, wherever that is, until it is obeyed or the time is over.
pub(super) async fn order(core: Arc<Core>, order: Order) -> Result<()> {
    let deadline = now() + core.options.timeout;
    loop {
        let result = match core.role() {
            Role::Leader { .. } => obey(&core, order.clone()).await,
            Role::Follower { leader } => match core.member(leader) {
                Some(member) => match core.ask(&member, Lane::Client, &Ask::Order(order.clone()), &[], core.options.timeout).await {
                    Ok(Answer::Done) => Ok(()),
                    Ok(_) => Err(unavailable("the leader has changed")),
                    Err(error) => Err(unreached(error)),
                },
                None => Err(unavailable("the leader is not known")),
            },
            Role::Lost => Err(unavailable("there is no leader")),
        };
        match result {
            Err(error) if error.status() == Status::Unavailable && now() < deadline => tokio::time::sleep(RETRY).await,
            other => return other,
        }
    }
}
