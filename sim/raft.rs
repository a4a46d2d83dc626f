//! What Raft promises (I-15), judged over a whole run: the judge sees all logs, votes and disks at once, those of dead machines too.
//!
//! It is told of every entry before it is applied, looks at each member now and then and before it dies, and reads what is left on its disk
//! afterwards; of a log only what is new. A leader is known by its term *and* number, in this order: openraft lets a voter change its mind in
//! a term for a candidate with a higher number, whose leadership is then as a term of its own. The members are the same in the whole run.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::counts::Counts;
use super::world::World;
use crate::consensus::{Ballot, Held, LogView, Place, Sight, Witness};

/// What is compared in a log.
pub trait Entries: Send + Sync {
    /// What of it is on disk for certain.
    fn held(&self) -> Held;
    /// The entries from an index on, with digests; none if they cannot be read.
    fn entries(&self, from: u64) -> Option<Vec<(Place, u32)>>;
    fn place(&self, index: u64) -> Option<Place>;
    /// Index of the first entry.
    fn start(&self) -> u64;
}

impl Entries for LogView {
    fn held(&self) -> Held {
        LogView::held(self)
    }
    fn entries(&self, from: u64) -> Option<Vec<(Place, u32)>> {
        LogView::entries(self, from)
    }
    fn place(&self, index: u64) -> Option<Place> {
        LogView::place(self, index)
    }
    fn start(&self) -> u64 {
        LogView::start(self)
    }
}

pub type Log = Arc<dyn Entries>;

/// Term and number.
type Leader = (u64, u64);

fn of(vote: Ballot) -> Leader {
    (vote.term, vote.node)
}

/// What is known of an entry, wherever it was seen.
struct Entry {
    digest: u32,
    /// Who led when the entry before it was proposed.
    before: Option<Leader>,
}

/// What there is of a member.
enum Now {
    /// It has never been started.
    Nothing,
    /// The log of its process, or what is left of it on disk.
    Log(Log),
    /// A bit of its disk was changed: whatever it had may be there or not.
    Damaged,
}

struct Member {
    now: Now,
    /// What it has had on disk for certain, which does not go back.
    vote: Ballot,
    purged: u64,
    snapshot: u64,
    /// Index after the last committed entry that it has had.
    had: u64,
}

impl Member {
    fn new() -> Member {
        Member { now: Now::Nothing, vote: Ballot::default(), purged: 0, snapshot: 0, had: 0 }
    }

    /// Whether it has an entry, in its log or in a snapshot of what is committed.
    fn has(&self, at: Place) -> bool {
        match &self.now {
            Now::Nothing => false,
            Now::Damaged => true,
            Now::Log(log) => {
                // Before the start there is a snapshot; or, where the purge failed, there are the entries still.
                at.index < log.start() || (at.index < log.held().end && log.place(at.index) == Some(at))
            }
        }
    }

    fn has_voted(&self, vote: Ballot) -> bool {
        match &self.now {
            Now::Nothing => false,
            Now::Damaged => true,
            Now::Log(log) => log.held().vote >= vote,
        }
    }
}

/// What a process has shown of itself before.
#[derive(Default)]
struct Shown {
    sight: Sight,
    /// The last entry of its log.
    last: Option<Place>,
    /// Index of the entry that it must apply next.
    next: Option<u64>,
    /// Up to here its commits were compared; as the leader that it is, its log with what was committed before.
    committed: u64,
    complete: (Leader, u64),
}

/// What is remembered of a run.
pub struct Raft {
    counts: Counts,
    members: BTreeMap<String, Member>,
    entries: BTreeMap<Place, Entry>,
    /// By index, and under which leader at the latest it was committed.
    committed: BTreeMap<u64, (Place, Leader)>,
    leaders: BTreeMap<Leader, String>,
    shown: BTreeMap<String, Shown>,
}

/// The machine of the process `a#3`.
fn machine(who: &str) -> &str {
    who.split('#').next().unwrap_or(who)
}

impl Raft {
    pub fn new(names: impl IntoIterator<Item = String>, counts: Counts) -> Raft {
        let members = names.into_iter().map(|name| (name, Member::new())).collect();
        let (entries, committed, leaders, shown) = Default::default();
        Raft { counts, members, entries, committed, leaders, shown }
    }

    /// A process has been started.
    pub fn rises(&mut self, who: &str, log: Log) {
        if let Some(member) = self.members.get_mut(machine(who)) {
            member.now = Now::Log(log);
        }
    }

    /// A bit of a machine's disk is not what it was: it may have lost what it had, or will not start.
    pub fn damaged(&mut self, host: &str) {
        self.members.insert(host.to_owned(), Member { now: Now::Damaged, ..Member::new() });
    }

    /// A process has ended; this is left on its disk, and a snapshot up to an index.
    pub fn falls(&mut self, host: &str, log: Log, snapshot: u64) {
        let (held, start) = (log.held(), log.start());
        let Some(member) = self.members.get_mut(host) else { return };
        if matches!(member.now, Now::Damaged) {
            return;
        }
        member.now = Now::Log(log.clone());
        assert!(held.vote >= member.vote, "I-15: {host} has voted {:?}, and its disk says {:?}", member.vote, held.vote);
        assert!(held.purged >= member.purged, "I-15: {host} had purged up to {}, and its disk says {}", member.purged, held.purged);
        assert!(snapshot >= member.snapshot, "I-15: {host} had a snapshot up to {}, and its disk says {snapshot}", member.snapshot);
        assert!(held.purged <= snapshot, "I-15: {host} has purged up to {} with a snapshot up to {snapshot}", held.purged);
        self.keeps(host);
        if let Some(entries) = log.entries(start) {
            self.learn(host, None, &entries);
        }
        self.counts.done("disk of a dead member read");
    }

    /// What was committed is not lost by who had it.
    fn keeps(&self, host: &str) {
        let Some(member) = self.members.get(host) else { return };
        if let Some((at, _)) = member.had.checked_sub(1).and_then(|index| self.committed.get(&index)) {
            let there = |log: &Log| (log.held(), log.start(), log.place(at.index));
            let there = if let Now::Log(log) = &member.now { Some(there(log)) } else { None };
            assert!(member.has(*at), "I-15: {host} has lost {at:?}, which it had on disk and which is committed: {there:?}");
        }
    }

    /// Log matching: an entry is the same wherever it stands, and so is what is before it.
    fn learn(&mut self, who: &str, mut before: Option<Place>, entries: &[(Place, u32)]) {
        for (at, digest) in entries {
            let prior = before.filter(|b| b.index + 1 == at.index).map(|b| (b.term, b.leader));
            match self.entries.get_mut(at) {
                Some(known) => {
                    assert_eq!(known.digest, *digest, "I-15: {who} has another entry {at:?} than it was elsewhere");
                    let same = known.before.is_none() || prior.is_none() || known.before == prior;
                    assert!(same, "I-15: before {at:?} {who} has an entry of {prior:?}, and elsewhere it is of {:?}", known.before);
                    known.before = known.before.or(prior);
                    self.counts.done("entry compared");
                }
                None => drop(self.entries.insert(*at, Entry { digest: *digest, before: prior })),
            }
            before = Some(*at);
        }
    }

    /// Somebody takes an entry for committed, having voted for this leader at most.
    fn commit(&mut self, who: &str, at: Place, by: Leader) {
        if let Some((known, _)) = self.committed.get(&at.index) {
            assert_eq!(*known, at, "I-15: {who} has another committed entry than others");
            return self.counts.done("commit compared");
        }
        let having: Vec<String> = self.members.iter().filter(|(_, m)| m.has(at)).map(|(name, _)| name.clone()).collect();
        assert!(having.len() * 2 > self.members.len(), "I-15: {who} takes {at:?} for committed, which only {having:?} have on disk");
        for name in having {
            if let Some(member) = self.members.get_mut(&name).filter(|m| matches!(m.now, Now::Log(_))) {
                member.had = member.had.max(at.index + 1);
            }
        }
        self.committed.insert(at.index, (at, by));
        self.counts.done("commit on a majority");
    }

    /// The last leader that a machine can have heard of commits from.
    fn heard(&self, host: &str) -> Leader {
        match self.members.get(host).map(|m| &m.now) {
            Some(Now::Log(log)) => of(log.held().vote),
            _ => (u64::MAX, u64::MAX),
        }
    }

    /// A process applies an entry.
    fn applies(&mut self, who: &str, at: Place, digest: u32) {
        let next = &mut self.shown.entry(who.to_owned()).or_default().next;
        assert!(next.is_none_or(|next| next == at.index), "I-15: {who} applies {at:?} when {next:?} is due");
        *next = Some(at.index + 1);
        self.learn(who, None, &[(at, digest)]);
        self.commit(who, at, self.heard(machine(who)));
    }

    /// A process has put a leader's snapshot in the place of its state.
    fn installs(&mut self, who: &str, at: Place) {
        let next = &mut self.shown.entry(who.to_owned()).or_default().next;
        assert!(next.is_none_or(|next| next <= at.index), "I-15: {who} goes back to a snapshot of {at:?} when {next:?} is due");
        *next = Some(at.index + 1);
        self.commit(who, at, self.heard(machine(who)));
        self.counts.done("snapshot installed");
    }

    /// Looks at a process, which works or stands still.
    pub fn look(&mut self, who: &str, s: &Sight, works: bool) {
        let Some(Member { now: Now::Log(log), .. }) = self.members.get(machine(who)) else { return };
        let (log, mut shown) = (log.clone(), self.shown.remove(who).unwrap_or_default());
        let held = log.held();
        self.forward(who, &shown.sight, s, held);
        self.keeps(machine(who));
        self.follow(who, &log, &mut shown);
        let start = log.start();
        let there = s.applied <= start || log.place(s.applied - 1).is_some();
        assert!(there, "I-15: {who} has applied an entry that is not in its log, which begins with {start}: {s:?}");
        shown.committed = shown.committed.max(start.min(s.committed));
        // Who stands still, or has ended, may have done so between taking up a leader's entries and handing them to the log.
        while shown.committed < s.committed
            && let Some(at) = log.place(shown.committed)
        {
            self.commit(who, at, of(held.vote.max(s.vote)));
            shown.committed += 1;
        }
        let lacking = works && shown.committed < s.committed;
        assert!(!lacking, "I-15: {who} takes entry {} for committed, which is not in its log: {s:?}", shown.committed);
        if s.leads && held.vote == (Ballot { node: s.number, won: true, ..held.vote }) {
            self.leads(who, of(held.vote), &log, &mut shown);
        }
        // What is committed is: should its log end with such an entry it has all of them up to there.
        let known = self.committed.range(..held.end).next_back().map(|(_, (at, _))| *at);
        if let (Some(at), Some(member)) = (known, self.members.get_mut(machine(who))) {
            let end = if log.place(at.index) == Some(at) { at.index + 1 } else { held.end.min(s.committed) };
            member.had = member.had.max(end);
        }
        shown.sight = *s;
        self.shown.insert(who.to_owned(), shown);
    }

    /// Nothing goes back, and one thing is never ahead of the next.
    fn forward(&mut self, who: &str, was: &Sight, s: &Sight, held: Held) {
        let order = [s.purged, s.snapshot, s.applied, s.committed, s.end];
        assert!(order.is_sorted(), "I-15: purged, snapshot, applied, committed, end of {who} are {order:?}");
        let before = [was.term, was.purged, was.snapshot, was.applied, was.committed];
        let after = [s.term, s.purged, s.snapshot, s.applied, s.committed];
        let back = before.iter().zip(&after).any(|(before, after)| after < before);
        assert!(!back, "I-15: term, purged, snapshot, applied, committed of {who} went from {before:?} to {after:?}");
        assert!(s.vote >= was.vote, "I-15: {who}'s vote went back from {:?} to {:?}", was.vote, s.vote);
        assert!(s.vote.term == 0 || s.vote <= held.vote, "I-15: {who} acts on the vote {:?}, and on disk is {:?}", s.vote, held.vote);
        let Some(member) = self.members.get_mut(machine(who)) else { return };
        assert!(held.vote >= member.vote, "I-15: {who}'s vote on disk went back from {:?} to {:?}", member.vote, held.vote);
        assert!(held.purged >= member.purged, "I-15: {who} had purged up to {}, and now up to {}", member.purged, held.purged);
        (member.vote, member.purged) = (held.vote, held.purged);
        member.snapshot = member.snapshot.max(s.snapshot);
    }

    /// Goes over what is new in a log; what is there no more was not committed.
    fn follow(&mut self, who: &str, log: &Log, shown: &mut Shown) {
        let mut at = shown.last;
        while let Some(place) = at.filter(|p| p.index >= log.start() && log.place(p.index) != Some(*p)) {
            let kept = self.committed.get(&place.index).is_none_or(|(known, _)| *known != place);
            assert!(kept, "I-15: {who} has cut off {place:?}, which is committed");
            let before = self.entries.get(&place).and_then(|entry| entry.before);
            at = before.map(|(term, leader)| Place { term, leader, index: place.index - 1 });
        }
        let from = at.map_or(0, |p| p.index + 1).max(log.start());
        if let Some(entries) = log.entries(from) {
            self.learn(who, at, &entries);
            shown.last = entries.last().map(|(at, _)| *at).or(at);
        }
    }

    /// Election safety, and leader completeness.
    fn leads(&mut self, who: &str, leader: Leader, log: &Log, shown: &mut Shown) {
        let known = self.leaders.entry(leader).or_insert_with(|| who.to_owned());
        assert_eq!(known, who, "I-15, I-20: term and number {leader:?} have two leaders");
        if shown.complete.0 != leader {
            shown.complete = (leader, 0);
            let vote = Ballot { term: leader.0, node: leader.1, won: false };
            let voters: Vec<&String> = self.members.iter().filter(|(_, m)| m.has_voted(vote)).map(|(name, _)| name).collect();
            assert!(voters.len() * 2 > self.members.len(), "I-15: {who} leads as {leader:?} with the votes of {voters:?} alone");
            self.counts.done("leader judged");
        }
        for (index, (at, by)) in self.committed.range(shown.complete.1.max(log.start())..) {
            // What was committed under a later leader this one need not have.
            if *by <= leader {
                assert_eq!(log.place(*index), Some(*at), "I-15: {who} leads as {leader:?} without what is committed");
            }
            shown.complete.1 = index + 1;
        }
    }
}

/// What is told of one process.
struct Here {
    world: Weak<World>,
    who: String,
}

impl Here {
    fn judge(&self, body: impl FnOnce(&mut Raft)) {
        if let Some(world) = self.world.upgrade() {
            body(&mut world.raft.lock().unwrap());
        }
    }
}

impl Witness for Here {
    fn applies(&self, at: Place, digest: u32) {
        self.judge(|raft| raft.applies(&self.who, at, digest));
    }
    fn installs(&self, at: Place) {
        self.judge(|raft| raft.installs(&self.who, at));
    }
}

/// Has the world's judge told of what a process does.
pub fn witness(world: &Arc<World>, who: &str) -> Arc<dyn Witness> {
    Arc::new(Here { world: Arc::downgrade(world), who: who.to_owned() })
}

#[path = "raft_test.rs"]
mod tests;
