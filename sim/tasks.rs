//! What the orchestrator gives out: the schedules, what their handlers do, and who asks for runs outside of the calendar.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::host::{TIMEOUT, Up};
use super::load::Client;
use super::world::World;
use crate::base::{Result, Rng, SeededRng, SessionId};
use crate::ledger::orch::{Misfire, OnClose, OrchAnswer, OrchOp, Overlap, Retry, Schedule, Scope, Task, Window};
use crate::ledger::{Op, Outcome, Request};
use crate::node::orchestrator::{Handler, Stop, TaskContext};

/// The kind of all tasks.
const KIND: &str = "work";
/// The schedule without a calendar.
pub const ASKED: &str = "asked";
/// The one with a window.
pub const WINDOWED: &str = "windowed";
/// Who asks at about the same time asks for the same run.
const ASKED_EVERY_NS: u64 = 2_000_000_000;
/// A failure that is tried again under the same claim.
const AGAIN: &str = "again";

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The schedules. The window of `windowed` closes at the next full minute after `wall_ms`.
pub fn schedules(wall_ms: i64) -> Vec<Schedule> {
    let schedule = |id: &str, every_ms: u64, lease_ms: u32| Schedule {
        id: id.to_owned(),
        every_ms,
        lease_ms,
        grace_ms: 700,
        scope: Some(Scope::Singleton),
        lost_retries: Some(2),
        tasks: vec![Task {
            kind: KIND.to_owned(),
            retry: Retry { max: 2, base_ms: 100, ..Retry::default() },
            retry_on: vec![AGAIN.to_owned()],
            ..Task::default()
        }],
        ..Schedule::default()
    };
    let minute = wall_ms.div_euclid(60_000);
    let minute_of_day = minute.rem_euclid(1_440) as u16;
    let window = Window { from_min: minute_of_day, to_min: (minute_of_day + 1) % 1_440, days: 0x7f };
    vec![
        schedule("single", 1_000, 1_500),
        Schedule {
            scope: Some(Scope::EachNode { max_parallel: 2, max_parallel_percent: 0, halt_after_failures: 0 }),
            ..schedule("nodes", 2_500, 1_000)
        },
        Schedule { misfire: Misfire::RunAll(3), overlap: Overlap::Allow(2), lost_retries: Some(0), ..schedule("all", 800, 2_000) },
        Schedule { windows: vec![window], on_close: OnClose::Cancel, overlap: Overlap::Buffer(1), ..schedule(WINDOWED, 1_300, 1_200) },
        Schedule { overlap: Overlap::Allow(20), ..schedule(ASKED, 0, 1_500) },
    ]
}

impl Client {
    /// Writes the schedules.
    pub async fn put(&mut self, schedules: Vec<Schedule>) {
        for schedule in schedules {
            let now_ms = self.world.wall_ms();
            self.world.ticks.lock().unwrap().hears(now_ms);
            let op = OrchOp::Put { now_ms, schedule: Box::new(schedule), expected: Some(0) };
            match self.asks(op).await {
                Outcome::Orch(OrchAnswer::Written { .. }) => {}
                other => panic!("a schedule is answered {other:?}"),
            }
        }
    }
}

/// Has this process do tasks.
pub fn register(world: &Arc<World>, up: &Arc<Up>, rng: SeededRng) -> Result<()> {
    let (world, weak, rng): (_, Weak<Up>, _) = (world.clone(), Arc::downgrade(up), Mutex::new(rng));
    let handler = move |context: TaskContext| {
        let Some(up) = weak.upgrade() else { return };
        let rng = SeededRng::new(rng.lock().unwrap().next_u64());
        let machine = up.machine.clone();
        drop(tokio::spawn(machine.run(work(world.clone(), up, context, rng))));
    };
    up.orchestrator.register(KIND, Handler::Deferred(Arc::new(handler)))
}

/// One try of a task: writes to a resource that checks tokens, until it is done or told to stop. Some are deaf, and write without
/// asking; some vanish.
async fn work(world: Arc<World>, up: Arc<Up>, context: TaskContext, mut rng: SeededRng) {
    world.ticks.lock().unwrap().begins(&world, &up, &context);
    let takes = if rng.below(10) == 0 { 1_000 + rng.below(3_000) } else { rng.below(500) };
    let (until, deaf) = (world.trace.now() + takes * 1_000_000, rng.below(4) == 0);
    while world.trace.now() < until && (deaf || context.stop() == Stop::No) {
        sleep(ms(10 + rng.below(80))).await;
        if deaf || context.check().is_ok() {
            // On its way to the resource.
            sleep(ms(rng.below(6))).await;
            world.ticks.lock().unwrap().writes(&world, &up, &context);
        }
    }
    world.ticks.lock().unwrap().ends(&context);
    match rng.below(16) {
        0 => world.counts.done("task vanished"),
        1 => context.finish(Err("failed".to_owned())),
        2 => context.finish(Err(AGAIN.to_owned())),
        _ => context.finish(Ok(())),
    }
}

async fn ask(up: &Up, op: OrchOp) -> Option<OrchAnswer> {
    let (tell, told) = oneshot::channel();
    let request = Request { session: SessionId(0), seq: 0, op: Op::Orch(op) };
    up.access.submit_early(request, TIMEOUT, Box::new(move |answer| drop(tell.send(answer))));
    match timeout(TIMEOUT + ms(500), told).await {
        Ok(Ok(Ok(Outcome::Orch(answer)))) => Some(answer),
        _ => None,
    }
}

/// The host's own code: asks for runs, as others do at the same time, and changes and pauses schedules.
pub async fn asker(world: Arc<World>, up: Arc<Up>, mut rng: SeededRng) {
    while !world.is_over() {
        sleep(ms(200 + rng.below(1_200))).await;
        let now_ms = up.wall_ms();
        match rng.below(8) {
            0 => {
                // The calendar stays what it was.
                let mut all = schedules(world.began_ms);
                let mut schedule = all.swap_remove(rng.below(4) as usize);
                schedule.priority = rng.below(4) as u8;
                if ask(&up, OrchOp::Put { schedule: Box::new(schedule), expected: None, now_ms }).await.is_some() {
                    world.counts.done("schedule changed");
                }
            }
            1 => {
                let op = OrchOp::Pause { schedule: Some("all".to_owned()), note: String::new(), until_ms: now_ms + 800 };
                if ask(&up, op).await.is_some() {
                    world.counts.done("schedule paused");
                }
            }
            _ => {
                let key = format!("k{}", world.trace.now() / ASKED_EVERY_NS);
                let (schedule, target) = (ASKED.to_owned(), String::new());
                let op = OrchOp::Trigger { schedule, target, key: key.clone(), tick_ms: None, force: false, params: None, now_ms };
                if let Some(OrchAnswer::Triggered { run, .. }) = ask(&up, op).await {
                    world.ticks.lock().unwrap().asked_for(&world, &key, run);
                }
            }
        }
    }
}
