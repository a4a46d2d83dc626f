//! Which worker gets a run.

use crate::base::SessionId;
use crate::ledger::orch::{Schedule, Worker};

use super::calendar::hash;

/// The worker for a run: of those that can, the one with the largest share in the lot of schedule and target (rendezvous hashing, Thaler and
/// Ravishankar 1998), so that a run goes where its last one was, and only the runs of a worker that leaves move. One without room
/// passes it on to the next. `only` narrows the choice to nodes of these names.
pub fn place(workers: &[Worker], schedule: &Schedule, target: &str, only: Option<&[String]>) -> Option<SessionId> {
    let able = workers.iter().filter(|w| w.can(schedule) && w.has_room()).filter(|w| only.is_none_or(|names| names.contains(&w.name)));
    // Two sessions of one name: the younger one is the living one.
    let best = able.max_by_key(|w| (hash(&[schedule.id.as_bytes(), target.as_bytes(), w.name.as_bytes()]), w.session));
    best.map(|w| w.session)
}

/// As [`place`], for a run that `lost_by` has lost: to another one if there is any, since a worker that is gone is known as such only when its
/// session ends.
pub fn place_again(
    workers: &[Worker],
    schedule: &Schedule,
    target: &str,
    only: Option<&[String]>,
    lost_by: Option<SessionId>,
) -> Option<SessionId> {
    let others: Vec<Worker> = workers.iter().filter(|w| Some(w.session) != lost_by).cloned().collect();
    let other = lost_by.and_then(|_| place(&others, schedule, target, only));
    other.or_else(|| place(workers, schedule, target, only))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::orch::Task;

    #[test]
    fn a_lost_worker_moves_only_its_own() {
        let worker = |n: u64| Worker {
            session: SessionId(n),
            name: format!("node{n}"),
            kinds: vec!["t".to_owned()],
            labels: Default::default(),
            version: 1,
            capacity: 0,
            running: 0,
            since_ms: 0,
        };
        let all: Vec<Worker> = (1..=5).map(worker).collect();
        let schedule =
            |n: u32| Schedule { id: format!("s{n}"), tasks: vec![Task { kind: "t".to_owned(), ..Task::default() }], ..Schedule::default() };
        let mut counts = [0; 6];
        for n in 0..1000 {
            let s = schedule(n);
            let before = place(&all, &s, "", None).map_or(0, |s| s.0);
            counts[before as usize] += 1;
            let after = place(&all[1..], &s, "", None).map_or(0, |s| s.0);
            assert!(before == 1 || before == after, "{n} moved from {before} to {after}");
        }
        assert!(counts[1..].iter().all(|c| (120..280).contains(c)), "{counts:?}");
        let first = place(&all, &schedule(0), "", None);
        let second = place_again(&all, &schedule(0), "", None, first);
        assert!(second.is_some() && second != first);
        let alone: Vec<Worker> = all.iter().filter(|w| Some(w.session) == first).cloned().collect();
        assert_eq!(place_again(&alone, &schedule(0), "", None, first), first);
        assert_eq!(place(&all, &Schedule { min_version: 2, ..schedule(0) }, "", None), None);
        assert_eq!(place(&all, &schedule(0), "", Some(&["node3".to_owned()])), Some(SessionId(3)));
    }
}
