//! Which tasks of a run may start, and what became of the whole.

use crate::ledger::orch::{Schedule, Task};

/// What is known of a task within one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Not started.
    #[default]
    Waiting,
    /// Under way.
    Running,
    /// Ended; whether with success.
    Ended(bool),
    /// Never to be started: something before it has failed.
    UpstreamFailed,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start these tasks, if any; others go on.
    Start(Vec<usize>),
    /// Nothing goes on and nothing is left: whether all is well.
    Over(bool),
}

fn index(schedule: &Schedule, name: &str) -> Option<usize> {
    schedule.tasks.iter().position(|t| t.name() == name)
}

/// Looks at the steps; marks those that can never start.
pub fn advance(schedule: &Schedule, steps: &mut [Step], stop: bool) -> Next {
    let failed = |s: &Step| matches!(s, Step::Ended(false) | Step::UpstreamFailed);
    // In order of dependence at most as many rounds as there are tasks.
    for _ in 0..steps.len() {
        for (at, task) in schedule.tasks.iter().enumerate() {
            if steps[at] == Step::Waiting
                && task.after.iter().any(|a| !a.done && index(schedule, &a.task).is_some_and(|i| failed(&steps[i])))
            {
                steps[at] = Step::UpstreamFailed;
            }
        }
    }
    let halted = stop || (schedule.halt_on_failure && steps.iter().any(failed));
    let running = steps.iter().filter(|s| **s == Step::Running).count();
    let over = |task: &Task| {
        task.after.iter().all(|a| index(schedule, &a.task).is_some_and(|i| matches!(steps[i], Step::Ended(_) | Step::UpstreamFailed)))
    };
    let room = if schedule.width == 0 { usize::MAX } else { (schedule.width as usize).saturating_sub(running) };
    let ready: Vec<usize> = (0..steps.len()).filter(|at| steps[*at] == Step::Waiting && over(&schedule.tasks[*at])).collect();
    if running == 0 && (halted || ready.is_empty()) {
        return Next::Over(steps.iter().all(|s| *s == Step::Ended(true)));
    }
    Next::Start(if halted { Vec::new() } else { ready.into_iter().take(room).collect() })
}

/// The pause before the `n`-th further try (from 1) of a task, ms. `lot` is a random number.
pub fn pause_ms(task: &Task, n: u32, lot: u64) -> u64 {
    let retry = &task.retry;
    let full = u64::from(retry.base_ms).saturating_mul(1 << (n.saturating_sub(1)).min(30)).min(u64::from(retry.cap_ms));
    let spread = full * u64::from(retry.jitter_percent.min(100)) / 100;
    full - spread + if spread == 0 { 0 } else { lot % (spread + 1) }
}

/// Whether a failure with this message is tried again after `tries` tries.
pub fn tries_again(task: &Task, tries: u32, message: &str) -> bool {
    tries <= task.retry.max && (task.retry_on.is_empty() || task.retry_on.iter().any(|start| message.starts_with(start.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::orch::After;

    fn schedule(edges: &[(&str, &[(&str, bool)])], width: u32, halt: bool) -> Schedule {
        let after = |list: &[(&str, bool)]| list.iter().map(|(t, done)| After { task: (*t).to_owned(), done: *done }).collect();
        let tasks = edges.iter().map(|(kind, list)| Task { kind: (*kind).to_owned(), after: after(list), ..Task::default() }).collect();
        Schedule { tasks, width, halt_on_failure: halt, ..Schedule::default() }
    }

    #[test]
    fn a_failure_stops_what_needs_it_and_nothing_else() {
        let s = schedule(&[("a", &[]), ("b", &[("a", false)]), ("c", &[("a", true)]), ("d", &[("b", false)]), ("e", &[])], 0, false);
        let mut steps = vec![Step::Waiting; 5];
        assert_eq!(advance(&s, &mut steps, false), Next::Start(vec![0, 4]));
        steps[0] = Step::Ended(false);
        steps[4] = Step::Running;
        assert_eq!(advance(&s, &mut steps, false), Next::Start(vec![2]));
        assert_eq!((steps[1], steps[3]), (Step::UpstreamFailed, Step::UpstreamFailed));
        (steps[2], steps[4]) = (Step::Ended(true), Step::Ended(true));
        assert_eq!(advance(&s, &mut steps, false), Next::Over(false));
    }

    #[test]
    fn width_and_halt_bound_what_starts() {
        let s = schedule(&[("a", &[]), ("b", &[]), ("c", &[])], 2, true);
        let mut steps = vec![Step::Waiting; 3];
        assert_eq!(advance(&s, &mut steps, false), Next::Start(vec![0, 1]));
        (steps[0], steps[1]) = (Step::Ended(false), Step::Running);
        assert_eq!(advance(&s, &mut steps, false), Next::Start(vec![]));
        steps[1] = Step::Ended(true);
        assert_eq!(advance(&s, &mut steps, false), Next::Over(false));
        let mut done = vec![Step::Ended(true); 3];
        assert_eq!(advance(&s, &mut done, false), Next::Over(true));
    }

    #[test]
    fn pauses_double_up_to_their_cap() {
        let retry = crate::ledger::orch::Retry { max: 9, base_ms: 100, cap_ms: 350, jitter_percent: 0 };
        let mut task = Task { retry, ..Task::default() };
        assert_eq!([1, 2, 3, 4].map(|n| pause_ms(&task, n, 7)), [100, 200, 350, 350]);
        task.retry.jitter_percent = 50;
        assert!((0..200).all(|lot| (50..=100).contains(&pause_ms(&task, 1, lot))));
        task.retry_on = vec!["io".to_owned()];
        assert!(tries_again(&task, 1, "io: busy") && !tries_again(&task, 1, "bug") && !tries_again(&task, 10, "io"));
    }
}
