//! Who belongs to the cluster: founding it, coming in, going out, handing over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::ClientWriteResult;

use super::change::{self, Note};
use super::core::{Core, Role, now};
use super::queue::unavailable;
use super::serve::fatal;
use super::types::{Command, Config, Member, Reply};
use super::wire::{Answer, Ask, Lane, Order, Sender, number_of};
use crate::base::{Error, Result, Status};

const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two tries to found or to join.
const RETRY: Duration = Duration::from_millis(100);
/// A node that comes in may need a snapshot first.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Has the log remember a node's sighting, once.
pub(super) fn note_sighting(core: &Arc<Core>, sender: &Sender) {
    let key = (sender.name.clone(), sender.sighting.boot);
    if !core.noting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
        return;
    }
    let (core, note) = (core.clone(), Note::Seen { name: sender.name.clone(), sighting: sender.sighting });
    drop(tokio::spawn(async move {
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

/// Founds the cluster, if this node is the founder with the lowest name. It alone does, and only when all founders are there
/// and none of them has a log: so there is one cluster, whoever starts first, and a node that lost its disk founds none.
/// The other founders only look whether there is a cluster that they should be of and are not.
pub(super) async fn found(core: Arc<Core>) {
    let mut founders = core.options.founders.clone();
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
    let mut members = BTreeMap::from([(core.number, core.me.member())]);
    let mut missing = false;
    for (name, address) in founders.iter().filter(|(name, _)| *name != core.options.name) {
        if raft.is_initialized().await.map_err(fatal)? {
            return Ok(true);
        }
        let to = Member { name: name.clone(), address: address.clone(), disk: 0 };
        match probe(core, &to).await {
            Ok((_, Answer::Probed { founded: true, member: false })) => {
                let me = &core.options.name;
                return Err(Error::new(
                    Status::DataForeign,
                    format!("node {me}: {name} belongs to a cluster that does not know this data directory"),
                ));
            }
            Ok((_, Answer::Probed { founded: true, .. })) => missing = true,
            Ok((member, _)) => drop(members.insert(number_of(member.disk), member)),
            Err(error) => {
                tracing::debug!(%error, founder = %name, "not there yet");
                missing = true;
            }
        }
    }
    if missing || founders.first().is_none_or(|(name, _)| *name != core.options.name) {
        return Ok(false);
    }
    if members.len() != founders.len() {
        return Err(Error::new(Status::DataForeign, "two founders have the same data directory"));
    }
    match raft.initialize(members).await {
        Ok(()) => Ok(true),
        Err(error) => {
            tracing::debug!(%error, "not founded");
            Ok(false)
        }
    }
}

/// Asks a founder who it is. What it has against this node ends this node.
async fn probe(core: &Arc<Core>, to: &Member) -> Result<(Member, Answer)> {
    let (sender, answer) = core.ask_anybody(to, Lane::Control, &Ask::Probe, &[], PROBE_TIMEOUT).await?;
    match answer {
        Answer::Probed { .. } if sender.name == to.name => Ok((Member { address: to.address.clone(), ..sender.member() }, answer)),
        _ => Err(Error::new(Status::Unavailable, format!("{} answers where {} was expected", sender.name, to.name))),
    }
}

/// Asks to be let in, until a leader has done it. Asking again changes nothing.
pub(super) async fn join(core: Arc<Core>) {
    let mut seeds = core.options.seeds.clone();
    let mut ended = core.ended();
    for turn in 0.. {
        if ended.borrow_and_update().is_some() || seeds.is_empty() {
            return;
        }
        let address = seeds[turn % seeds.len()].clone();
        let to = Member { name: String::new(), address, disk: 0 };
        match core.ask(&to, Lane::Client, &Ask::Join, &[], JOIN_TIMEOUT).await {
            Ok(Answer::Done) => return,
            Ok(Answer::NotLeader(Some(leader))) if !seeds.contains(&leader) => seeds.push(leader),
            Ok(_) => {}
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
pub(super) async fn admit_member(core: &Arc<Core>, member: Member) -> Result<()> {
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
        raft.add_learner(number, member, true).await.map_err(|e| unavailable(e.to_string()))?;
    }
    raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([number])), true).await.map_err(|e| unavailable(e.to_string()))?;
    Ok(())
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
            let (number, member) = named(&name)?;
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
    }
}

async fn remove(core: &Arc<Core>, number: u64, member: &Member, voters: &BTreeSet<u64>) -> Result<()> {
    let raft = core.raft()?;
    if voters.len() == 1 && voters.contains(&number) {
        return Err(Error::new(Status::Misuse, "the last voter cannot be removed"));
    }
    // Written down first: should the rest not come to pass, asking again finishes it.
    write_note(core, &Note::Retired { name: member.name.clone(), disk: member.disk }).await?;
    let gone = BTreeSet::from([number]);
    if voters.contains(&number) {
        raft.change_membership(ChangeMembers::RemoveVoters(gone.clone()), true).await.map_err(|e| unavailable(e.to_string()))?;
    }
    raft.change_membership(ChangeMembers::RemoveNodes(gone), false).await.map_err(|e| unavailable(e.to_string()))?;
    Ok(())
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
                    Err(error) => Err(error),
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
