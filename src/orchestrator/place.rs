//! Which worker gets a run.

use std::cmp::Reverse;

use crate::base::SessionId;
use crate::ledger::orch::{Placement, Schedule, Worker};

use super::calendar::hash;

/// What a run asks of its worker.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The definition by which the ledger judges.
    pub schedule: &'a Schedule,
    /// The target.
    pub target: &'a str,
    /// Only nodes of these names.
    pub only: Option<&'a [String]>,
    /// Who has lost it last: another one is taken if there is any, since a worker that is gone is known as such only when its session ends.
    pub lost_by: Option<SessionId>,
}

impl Ask<'_> {
    /// Whether a worker can do it, room apart.
    pub fn suits(&self, worker: &Worker) -> bool {
        worker.can(self.schedule) && self.only.is_none_or(|names| names.contains(&worker.name))
    }
}

/// The worker for a run, by its place among `workers`: of those that can and have room (`load` tells how many runs one of those has, and `None`
/// for the others) the one with the largest share in the lot of schedule and target (rendezvous hashing, Thaler and Ravishankar 1998), so that
/// a run goes where its last one was, and only the runs of a worker that leaves move. One without room passes it on to the next. With
/// [`Placement::LeastLoaded`] the one that has the fewest runs, and of several such the one with the largest share.
pub fn place(workers: &[Worker], ask: &Ask<'_>, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
    let able = workers.iter().enumerate().filter_map(|(at, w)| load(at).filter(|_| ask.suits(w)).map(|load| (at, w, load)));
    let counts = |load: u32| if ask.schedule.placement == Placement::LeastLoaded { load } else { 0 };
    // Two sessions of one name: the younger one is the living one.
    let share = |w: &Worker| (hash(&[ask.schedule.id.as_bytes(), ask.target.as_bytes(), w.name.as_bytes()]), w.session);
    able.max_by_key(|(_, w, load)| (Some(w.session) != ask.lost_by, Reverse(counts(*load)), share(w))).map(|(at, ..)| at)
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
        let at = |workers: &[Worker], s: &Schedule, only: Option<&[String]>, lost_by: Option<SessionId>| {
            let ask = Ask { schedule: s, target: "", only, lost_by };
            place(workers, &ask, |_| Some(0)).map(|at| workers[at].session)
        };
        let mut counts = [0; 6];
        for n in 0..1000 {
            let s = schedule(n);
            let before = at(&all, &s, None, None).map_or(0, |s| s.0);
            counts[before as usize] += 1;
            let after = at(&all[1..], &s, None, None).map_or(0, |s| s.0);
            assert!(before == 1 || before == after, "{n} moved from {before} to {after}");
        }
        assert!(counts[1..].iter().all(|c| (120..280).contains(c)), "{counts:?}");
        let first = at(&all, &schedule(0), None, None);
        let second = at(&all, &schedule(0), None, first);
        assert!(second.is_some() && second != first);
        let alone: Vec<Worker> = all.iter().filter(|w| Some(w.session) == first).cloned().collect();
        assert_eq!(at(&alone, &schedule(0), None, first), first);
        assert_eq!(at(&all, &Schedule { min_version: 2, ..schedule(0) }, None, None), None);
        assert_eq!(at(&all, &schedule(0), Some(&["node3".to_owned()]), None), Some(SessionId(3)));
        // One without room passes it on.
        let full = all.iter().position(|w| Some(w.session) == first);
        let ask = Ask { schedule: &schedule(0), target: "", only: None, lost_by: None };
        assert_eq!(place(&all, &ask, |at| (Some(at) != full).then_some(0)).map(|at| all[at].session), second);
        assert_eq!(place(&all, &ask, |_| None), None);
        // Where the load counts it goes before the share, and where it does not it is of no account.
        let busy = |at| Some(u32::from(Some(at) == full));
        assert_eq!(place(&all, &ask, busy).map(|at| all[at].session), first);
        let least = Schedule { placement: Placement::LeastLoaded, ..schedule(0) };
        assert_eq!(place(&all, &Ask { schedule: &least, ..ask }, busy).map(|at| all[at].session), second);
    }
}
