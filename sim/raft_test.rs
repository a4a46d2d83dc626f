//! I-15: each promise is broken once, by something made up, and the judge says so; what only looks like it is let pass.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

/// A log of made-up entries.
#[derive(Default)]
struct Made {
    log: Mutex<BTreeMap<u64, (Place, u32)>>,
    vote: Mutex<Ballot>,
    start: Mutex<u64>,
    /// Index after the last entry that is on disk, if it is not all of them.
    synced: Mutex<Option<u64>>,
}

impl Made {
    fn put(&self, term: u64, range: std::ops::Range<u64>) {
        for index in range {
            let place = Place { term, leader: term % 3, index };
            self.log.lock().unwrap().insert(index, (place, index as u32));
        }
    }

    fn cut(&self, end: u64) {
        self.log.lock().unwrap().retain(|index, _| *index < end);
    }

    fn votes(&self, term: u64) {
        *self.vote.lock().unwrap() = Ballot { term, node: term % 3, won: true };
    }

    fn purge(&self, end: u64) {
        *self.start.lock().unwrap() = end;
        self.log.lock().unwrap().retain(|index, _| *index >= end);
    }
}

impl Entries for Made {
    fn held(&self) -> Held {
        let (vote, start) = (*self.vote.lock().unwrap(), self.start());
        let end = self.log.lock().unwrap().keys().next_back().map_or(start, |last| last + 1);
        Held { vote, purged: start, end: self.synced.lock().unwrap().unwrap_or(end) }
    }
    fn entries(&self, from: u64) -> Option<Vec<(Place, u32)>> {
        Some(self.log.lock().unwrap().range(from..).map(|(_, entry)| *entry).collect())
    }
    fn place(&self, index: u64) -> Option<Place> {
        self.log.lock().unwrap().get(&index).map(|(place, _)| *place)
    }
    fn start(&self) -> u64 {
        *self.start.lock().unwrap()
    }
}

/// Members `a`, `b`, `c` with ten entries of term 1, in which `b` (number 1) leads; six of them are committed.
struct Scene {
    raft: Raft,
    logs: [Arc<Made>; 3],
    sights: [Sight; 3],
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Scene {
    fn new() -> Scene {
        let raft = Raft::new(NAMES.map(str::to_owned), Counts::default());
        let mut scene = Scene { raft, logs: Default::default(), sights: Default::default() };
        for (i, log) in scene.logs.iter().enumerate() {
            log.put(1, 0..10);
            log.votes(1);
            let s = &mut scene.sights[i];
            (s.number, s.term, s.vote, s.leads) = (i as u64, 1, *log.vote.lock().unwrap(), i == 1);
            (s.applied, s.committed, s.end) = (5, 6, 10);
            scene.raft.rises(&format!("{}#1", NAMES[i]), log.clone());
        }
        scene.look();
        scene
    }

    fn look(&mut self) {
        for (i, name) in NAMES.iter().enumerate() {
            self.raft.look(&format!("{name}#1"), &self.sights[i], true);
        }
    }

    fn falls(&mut self, i: usize, snapshot: u64) {
        self.raft.falls(NAMES[i], self.logs[i].clone(), snapshot);
    }

    /// `c` (number 2) leads in the term after.
    fn next_leader(&mut self) {
        for (log, s) in self.logs.iter().zip(&mut self.sights) {
            log.votes(2);
            (s.term, s.vote, s.leads) = (2, *log.vote.lock().unwrap(), s.number == 2);
        }
    }
}

#[test]
fn what_may_be_is_let_pass() {
    let mut scene = Scene::new();
    // An entry that one member alone has, and another in its place from the next leader.
    scene.logs[1].put(1, 10..12);
    scene.sights[1].end = 12;
    scene.look();
    scene.next_leader();
    scene.logs[2].put(2, 10..11);
    scene.look();
    scene.logs[1].cut(10);
    scene.logs.iter().for_each(|log| log.put(2, 10..11));
    for s in &mut scene.sights {
        (s.applied, s.committed, s.end) = (10, 11, 11);
    }
    scene.look();
    // A machine dies, and has all that was synced; another makes a snapshot and purges.
    scene.falls(0, 0);
    scene.logs[2].purge(4);
    (scene.sights[2].snapshot, scene.sights[2].purged) = (8, 4);
    scene.look();
    scene.falls(2, 8);
    let of = |what| scene.raft.counts.of_done(what);
    assert_eq!((of("leader judged"), of("commit on a majority"), of("disk of a dead member read")), (2, 11, 2));
    assert!(of("entry compared") >= 20 && of("commit compared") >= 20);
}

#[test]
fn a_damaged_disk_may_have_lost_anything() {
    let mut scene = Scene::new();
    scene.raft.damaged("a");
    let empty = Arc::new(Made::default());
    scene.raft.falls("a", empty.clone(), 0);
    scene.raft.rises("a#2", empty);
    scene.raft.look("a#2", &Sight::default(), true);
}

#[test]
#[should_panic(expected = "I-15, I-20: term and number (1, 1) have two leaders")]
fn election_safety_two_leaders() {
    let mut scene = Scene::new();
    scene.raft.rises("b#2", scene.logs[1].clone());
    scene.raft.look("b#2", &scene.sights[1], true);
}

#[test]
#[should_panic(expected = "I-15: c#1 leads as (2, 2) with the votes of [\"c\"] alone")]
fn election_safety_no_majority() {
    let mut scene = Scene::new();
    scene.next_leader();
    scene.logs[0].votes(1);
    scene.logs[1].votes(1);
    scene.raft.look("c#1", &scene.sights[2], true);
}

#[test]
#[should_panic(expected = "I-15: b#1 has another entry Place { term: 1, leader: 1, index: 10 } than it was elsewhere")]
fn log_matching_of_an_entry() {
    let mut scene = Scene::new();
    scene.logs[0].put(1, 10..11);
    scene.logs[1].log.lock().unwrap().insert(10, (Place { term: 1, leader: 1, index: 10 }, 77));
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: before Place { term: 3, leader: 0, index: 11 } b#1 has an entry of Some((1, 1))")]
fn log_matching_of_what_is_before() {
    let mut scene = Scene::new();
    scene.logs[0].put(2, 10..11);
    scene.logs[1].put(1, 10..11);
    scene.logs[0].put(3, 11..12);
    scene.logs[1].put(3, 11..12);
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: c#1 leads as (2, 2) without what is committed")]
fn leader_completeness() {
    let mut scene = Scene::new();
    scene.next_leader();
    scene.logs[2].cut(5);
    // It never had it.
    for member in scene.raft.members.values_mut() {
        member.had = 0;
    }
    scene.raft.shown.clear();
    scene.sights[2].committed = 5;
    scene.raft.look("c#1", &scene.sights[2], true);
}

#[test]
#[should_panic(expected = "I-15: a#1 has another committed entry than others")]
fn what_is_committed_stays_the_same() {
    let mut scene = Scene::new();
    scene.logs[0].put(2, 6..7);
    (scene.sights[0].committed, scene.sights[1].committed) = (7, 7);
    scene.raft.look("b#1", &scene.sights[1], true);
    scene.raft.look("a#1", &scene.sights[0], true);
}

#[test]
#[should_panic(expected = "I-15: a has lost Place { term: 1, leader: 1, index: 5 }")]
fn what_is_committed_is_not_overwritten() {
    let mut scene = Scene::new();
    scene.logs[0].put(2, 5..6);
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: a#1 has cut off Place { term: 1, leader: 1, index: 7 }, which is committed")]
fn what_is_committed_is_not_cut_off() {
    let mut scene = Scene::new();
    // Committed while nobody looked at a.
    for i in [1, 2] {
        scene.sights[i].committed = 8;
        scene.raft.look(&format!("{}#1", NAMES[i]), &scene.sights[i], true);
    }
    scene.raft.members.values_mut().for_each(|member| member.had = 0);
    scene.logs[0].cut(7);
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: b#1 takes Place { term: 1, leader: 1, index: 10 } for committed, which only [\"b\"] have on disk")]
fn committed_without_a_majority() {
    let mut scene = Scene::new();
    scene.logs[1].put(1, 10..11);
    // On its way to the disk is not there.
    scene.logs[0].put(1, 10..11);
    *scene.logs[0].synced.lock().unwrap() = Some(10);
    (scene.sights[1].committed, scene.sights[1].end) = (11, 11);
    scene.raft.look("b#1", &scene.sights[1], true);
}

#[test]
#[should_panic(expected = "I-15: b#1 takes Place { term: 1, leader: 1, index: 10 } for committed, which only [\"b\"] have on disk")]
fn applied_without_a_majority() {
    let mut scene = Scene::new();
    scene.logs[1].put(1, 10..11);
    scene.raft.applies("b#1", Place { term: 1, leader: 1, index: 10 }, 10);
}

#[test]
#[should_panic(expected = "I-15: b#1 has another entry")]
fn applied_is_what_is_in_the_log() {
    let mut scene = Scene::new();
    scene.raft.applies("b#1", Place { term: 1, leader: 1, index: 3 }, 77);
}

#[test]
#[should_panic(expected = "I-15: b#1 applies Place { term: 1, leader: 1, index: 3 } when Some(2) is due")]
fn applied_in_order() {
    let mut scene = Scene::new();
    for index in [0, 1, 3] {
        scene.raft.applies("b#1", Place { term: 1, leader: 1, index }, index as u32);
    }
}

#[test]
#[should_panic(expected = "I-15: b#1 goes back to a snapshot")]
fn a_snapshot_is_no_way_back() {
    let mut scene = Scene::new();
    (0..4).for_each(|index| scene.raft.applies("b#1", Place { term: 1, leader: 1, index }, index as u32));
    scene.raft.installs("b#1", Place { term: 1, leader: 1, index: 2 });
}

#[test]
#[should_panic(expected = "I-15: c#1 has applied an entry that is not in its log")]
fn what_is_applied_is_in_the_log() {
    let mut scene = Scene::new();
    (scene.sights[2].applied, scene.sights[2].committed, scene.sights[2].end) = (11, 11, 11);
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: c#1 takes entry 10 for committed, which is not in its log")]
fn committed_is_in_the_log() {
    let mut scene = Scene::new();
    (scene.sights[2].committed, scene.sights[2].end) = (11, 11);
    // It was stopped on the way.
    scene.raft.look("c#1", &scene.sights[2], false);
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: purged, snapshot, applied, committed, end of a#1 are [0, 0, 7, 6, 10]")]
fn one_is_not_ahead_of_the_next() {
    let mut scene = Scene::new();
    scene.sights[0].applied = 7;
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: a has purged up to 4 with a snapshot up to 3")]
fn what_is_purged_is_in_the_snapshot_on_disk() {
    let mut scene = Scene::new();
    scene.logs[0].purge(4);
    scene.falls(0, 3);
}

#[test]
#[should_panic(expected = "of a#1 went from [1, 0, 0, 5, 6] to [1, 0, 0, 5, 5]")]
fn commits_do_not_go_back() {
    let mut scene = Scene::new();
    scene.sights[0].committed = 5;
    scene.look();
}

#[test]
#[should_panic(expected = "of a#1 went from [1, 0, 0, 5, 6] to [0, 0, 0, 5, 6]")]
fn terms_do_not_go_back() {
    let mut scene = Scene::new();
    scene.sights[0].term = 0;
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: a#1's vote went back")]
fn votes_do_not_go_back() {
    let mut scene = Scene::new();
    scene.sights[0].vote.won = false;
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: a#1 acts on the vote")]
fn a_vote_is_on_disk_before_it_counts() {
    let mut scene = Scene::new();
    scene.sights[0].vote.term = 2;
    scene.look();
}

#[test]
#[should_panic(expected = "I-15: a has voted")]
fn a_vote_outlives_its_process() {
    let mut scene = Scene::new();
    scene.logs[0].vote.lock().unwrap().won = false;
    scene.falls(0, 0);
}

#[test]
#[should_panic(expected = "I-15: a#2's vote on disk went back")]
fn the_next_process_knows_the_vote() {
    let mut scene = Scene::new();
    *scene.logs[0].vote.lock().unwrap() = Ballot::default();
    scene.raft.rises("a#2", scene.logs[0].clone());
    scene.raft.look("a#2", &Sight::default(), true);
}

#[test]
#[should_panic(expected = "I-15: a had purged up to 4, and its disk says 0")]
fn a_purge_outlives_its_process() {
    let mut scene = Scene::new();
    scene.logs[0].purge(4);
    (scene.sights[0].snapshot, scene.sights[0].purged) = (5, 4);
    scene.look();
    *scene.logs[0].start.lock().unwrap() = 0;
    scene.falls(0, 5);
}

#[test]
#[should_panic(expected = "I-15: a had a snapshot up to 5, and its disk says 4")]
fn a_snapshot_outlives_its_process() {
    let mut scene = Scene::new();
    scene.sights[0].snapshot = 5;
    scene.look();
    scene.falls(0, 4);
}

#[test]
#[should_panic(expected = "I-15: a has lost Place { term: 1, leader: 1, index: 5 }, which it had on disk and which is committed")]
fn what_is_committed_outlives_the_process() {
    let mut scene = Scene::new();
    scene.logs[0].cut(5);
    scene.falls(0, 0);
}
