//! What became of each task of a run.

use std::collections::BTreeMap;

use crate::base::codec::{Decode, Encode};

use super::schedule::Schedule;

/// What is known of a task of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct TaskMark {
    /// Whether it has ended, and whether with success.
    pub ended: Option<bool>,
    /// Its checkpoint.
    #[serde(skip)]
    pub checkpoint: Vec<u8>,
}

/// Where a task stands, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It has not ended, or never began.
    Open,
    /// It has succeeded.
    Succeeded,
    /// It has failed.
    Failed,
    /// It is skipped: one whose success it needs has failed, or is skipped itself.
    UpstreamFailed,
}

/// The states of all tasks, in their order.
pub(super) fn states(definition: &Schedule, marks: &[TaskMark]) -> Vec<TaskState> {
    let state = |mark: &TaskMark| match mark.ended {
        None => TaskState::Open,
        Some(true) => TaskState::Succeeded,
        Some(false) => TaskState::Failed,
    };
    let mut states: Vec<TaskState> = marks.iter().map(state).collect();
    if !states.contains(&TaskState::Failed) {
        return states;
    }
    let places: BTreeMap<&str, usize> = definition.tasks.iter().enumerate().map(|(at, task)| (task.name(), at)).collect();
    loop {
        let bad = |at: &usize| matches!(states.get(*at), Some(TaskState::Failed | TaskState::UpstreamFailed));
        let cut_off = |at: &usize| {
            let needs = definition.tasks[*at].after.iter().filter(|edge| !edge.done);
            needs.filter_map(|edge| places.get(edge.task.as_str())).any(bad)
        };
        let next = (0..states.len().min(definition.tasks.len())).find(|at| states[*at] == TaskState::Open && cut_off(at));
        match next {
            Some(at) => states[at] = TaskState::UpstreamFailed,
            None => return states,
        }
    }
}

/// Of a run of several tasks, those that have not succeeded.
pub(super) fn without_success(definition: &Schedule, marks: &[TaskMark]) -> BTreeMap<String, TaskState> {
    if definition.tasks.len() < 2 {
        return BTreeMap::new();
    }
    let states = definition.tasks.iter().zip(states(definition, marks));
    states.filter(|(_, state)| *state != TaskState::Succeeded).map(|(task, state)| (task.name().to_owned(), state)).collect()
}
