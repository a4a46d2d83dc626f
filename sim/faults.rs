//! What goes wrong in a run: one thing after the other, as the seed has it, and then nothing any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::clock::{HostClock, Stand};
use super::counts::Fault;
use super::host::{Host, Up};
use super::load::{self, Client};
use super::net::Net;
use super::tasks;
use super::world::{World, name_of};
use crate::base::{Clock, Rng, SeededRng, Status};
use crate::store::crash_disk;
use crate::store::disk::Disk;

/// A process starts within this, or its disk has failed it.
const START: Duration = Duration::from_secs(20);

/// How often it is looked whether they do.
const LOOK: Duration = Duration::from_millis(10);
/// Within this the others know a process again, when they can hear it.
const KNOWN: Duration = Duration::from_secs(2);

fn wall_ms(clock: &HostClock) -> i64 {
    (clock.realtime_ns() / 1_000_000) as i64
}

pub struct Site {
    pub world: Arc<World>,
    pub hosts: Vec<Host>,
    pub net: Net,
    pub rng: SeededRng,
    names: Vec<String>,
    /// With a copy of somebody's disk; refused, and silent from then on.
    twin: Option<Host>,
}

impl Site {
    pub fn new(world: Arc<World>, members: usize, net: Net, mut rng: SeededRng) -> Site {
        let names: Vec<String> = (0..members).map(name_of).collect();
        let hosts = names.iter().map(|name| Host::new(name, world.began_ms, &mut rng)).collect();
        Site { world, hosts, net, rng, names, twin: None }
    }

    fn pick(&mut self) -> usize {
        self.rng.below(self.hosts.len() as u64) as usize
    }

    /// Starts a process on a machine that has none, with its load.
    pub async fn boot(&mut self, i: usize) {
        let (world, host) = (self.world.clone(), &mut self.hosts[i]);
        world.trace.note(format_args!("boot {}", host.name));
        let booted = timeout(START, host.boot(&self.names, &self.net, &world)).await;
        match booted.unwrap_or_else(|_| Err(Status::Timeout.into())) {
            Ok(up) => {
                world.counts.done("started");
                world.up.lock().unwrap()[i] = Some(up.clone());
                for number in 0..2 {
                    let load = load::holder(world.clone(), up.clone(), number, SeededRng::new(self.rng.next_u64()));
                    drop(tokio::spawn(up.machine.run(load)));
                }
                for _ in 0..2 {
                    let load = load::writer(world.clone(), up.clone(), SeededRng::new(self.rng.next_u64()));
                    drop(tokio::spawn(up.machine.run(load)));
                }
                let load = tasks::asker(world.clone(), up.clone(), SeededRng::new(self.rng.next_u64()));
                drop(tokio::spawn(up.machine.run(load)));
            }
            Err(error) => {
                world.trace.note(format_args!("{} does not start: {error}", host.name));
                world.counts.done("start refused");
                if matches!(error.status(), Status::DataCorrupt | Status::DataLost | Status::DataForeign) {
                    // Damage that is named is no harm: that member stays away, as an operator would have it.
                    assert!(
                        world.counts.of(Fault::Flip) + world.counts.of(Fault::FlipOfLog) > 0,
                        "I-16: {} refuses a disk without a fault in it: {error}",
                        host.name
                    );
                    host.lost = Some(error);
                }
            }
        }
    }

    fn kill(&mut self, i: usize) -> bool {
        let had = self.hosts[i].up.is_some();
        self.world.look_at_logs();
        // What it has shown since anybody looked may have been told to others.
        self.world.ticks.lock().unwrap().hears(wall_ms(&self.hosts[i].clock));
        self.world.up.lock().unwrap()[i] = None;
        self.hosts[i].kill(&self.net);
        had
    }

    /// All machines work and are started that can be.
    pub async fn mend(&mut self) {
        self.net.heal();
        for i in 0..self.hosts.len() {
            self.hosts[i].clock.set_stand(Stand::Runs);
            self.hosts[i].disk.set_capacity(u64::MAX);
            self.hosts[i].disk.forget_plans();
            let ended = self.hosts[i].up.as_ref().is_some_and(|up| !up.lives());
            if let Some(up) = &self.hosts[i].up {
                up.machine.go_on();
            }
            if ended {
                self.kill(i);
                self.hosts[i].disk = self.hosts[i].disk.kill_process();
                self.hosts[i].read_disk(&self.world);
            }
            if self.hosts[i].up.is_none() && self.hosts[i].lost.is_none() {
                self.boot(i).await;
            }
        }
    }

    /// All wall clocks show what the furthest has shown, but for some ms: before that time comes nothing is due.
    fn set_walls(&mut self) {
        let latest_ms = {
            let mut ticks = self.world.ticks.lock().unwrap();
            self.hosts.iter().for_each(|host| ticks.hears(wall_ms(&host.clock)));
            ticks.latest_ms()
        };
        for host in &self.hosts {
            host.clock.set_wall(latest_ms - wall_ms(&host.clock) + self.rng.below(40) as i64);
        }
    }

    /// The faults end for good.
    pub async fn calm_down(&mut self) {
        self.hosts.iter().for_each(|host| host.clock.set_rate(1_000_000));
        self.set_walls();
        self.mend().await;
        self.twin_is_nobody();
        self.kill_twin();
        // What had ended without being noticed, and what could not start on a full disk.
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            self.mend().await;
        }
    }

    /// Gives everything back.
    pub fn close(&mut self) {
        self.kill_twin();
        for i in 0..self.hosts.len() {
            self.kill(i);
        }
    }

    /// One more thing goes wrong, or all is mended. Returns the time in which nothing else went wrong, for that fault's sake.
    pub async fn trouble(&mut self) -> Duration {
        let (i, counts, calm) = (self.pick(), self.world.counts.clone(), self.world.calm);
        let other = (i + 1 + self.rng.below(self.hosts.len() as u64 - 1) as usize) % self.hosts.len();
        let (me, you) = (self.names[i].clone(), self.names[other].clone());
        self.twin_is_nobody();
        let kind = self.rng.below(27);
        self.world.trace.note(format_args!("trouble {kind} {me} {you}"));
        match kind {
            0 | 1 => {
                if self.kill(i) {
                    self.hosts[i].disk = self.hosts[i].disk.kill_process();
                    self.hosts[i].read_disk(&self.world);
                    counts.add(Fault::Kill);
                }
            }
            2 | 3 => self.cut_power(i).await,
            4 => {
                for i in 0..self.hosts.len() {
                    self.cut_power(i).await;
                }
            }
            5 | 6 => self.stand(i, Fault::Pause).await,
            7 => self.stand(i, Fault::Suspend).await,
            8 if !calm => self.stand(i, Fault::Freeze).await,
            8 | 9 => {
                let error = if calm { 5_000 } else { 500_000 };
                self.hosts[i].clock.set_rate(1_000_000 - error + self.rng.below(2 * error + 1));
                counts.add(Fault::Rate);
            }
            10 => {
                // Mostly by little: when the furthest clock is an hour ahead there are no ticks on the others for that hour.
                let by_ms = if self.rng.below(4) == 0 { 3_600_000 } else { 2_000 };
                let clock = &self.hosts[i].clock;
                let mut ticks = self.world.ticks.lock().unwrap();
                ticks.hears(wall_ms(clock));
                clock.set_wall(self.rng.below(2 * by_ms) as i64 - by_ms as i64);
                ticks.hears(wall_ms(clock));
                counts.add(Fault::Wall);
            }
            11 | 12 => {
                let side: Vec<bool> = self.names.iter().map(|_| self.rng.below(2) == 0).collect();
                for (a, one) in self.names.iter().zip(&side) {
                    for (b, _) in self.names.iter().zip(&side).filter(|(_, other)| *other != one) {
                        self.net.set(a, b, |way| way.cut = true);
                    }
                }
                if side.iter().any(|s| *s != side[0]) {
                    counts.add(Fault::Partition);
                }
            }
            13 | 14 => {
                self.net.set(&me, &you, |way| way.cut = true);
                counts.add(Fault::OneWay);
            }
            15 => self.net.set(&me, &you, |way| way.delay = (20_000, 120_000)),
            16 => self.net.set(&me, &you, |way| way.lost = 150),
            17 => self.net.set(&me, &you, |way| (way.doubled, way.overtaken) = (200, 200)),
            18 => {
                let errno = if self.rng.below(2) == 0 { libc::EIO } else { libc::ENOSPC };
                self.hosts[i].disk.plan(self.rng.below(20), crash_disk::Fault::Errno(errno));
                counts.add(if errno == libc::EIO { Fault::Eio } else { Fault::Enospc });
            }
            19 => {
                let disk = &self.hosts[i].disk;
                disk.set_capacity(disk.used() + self.rng.below(64 << 10));
                counts.add(Fault::Enospc);
            }
            20 => self.flip(i).await,
            21 => self.twin(i).await,
            22 if self.rng.below(2) == 0 => return self.answers_late_and_no_more(i, other).await,
            _ => self.mend().await,
        }
        Duration::ZERO
    }

    /// A member's renewals are answered when much of their leases is over, and then not at all for longer than a lease: whoever counts from the
    /// answer believes in what has ended (F03).
    async fn answers_late_and_no_more(&mut self, i: usize, other: usize) -> Duration {
        let began = Instant::now();
        let leads = |at: &usize| self.hosts[*at].up.as_ref().is_some_and(|up| up.access.status().is_ok_and(|s| s.leads));
        let by = (0..self.hosts.len()).filter(|at| *at != i).find(leads).unwrap_or(other);
        let (me, by) = (self.names[i].clone(), self.names[by].clone());
        self.net.set(&by, &me, |way| way.answers = (400_000, 700_000));
        sleep(Duration::from_millis(900 + self.rng.below(600))).await;
        for (from, to) in [(&by, &me), (&me, &by)] {
            self.net.set(from, to, |way| way.cut = true);
        }
        self.world.counts.add(Fault::Partition);
        sleep(Duration::from_millis(2_300)).await;
        began.elapsed()
    }

    /// The power goes, now or in the middle of one of the next writes.
    async fn cut_power(&mut self, i: usize) {
        if self.hosts[i].up.is_none() {
            return;
        }
        if self.rng.below(2) == 0 {
            let hits = self.hosts[i].disk.hits();
            self.hosts[i].disk.plan(self.rng.below(6), crash_disk::Fault::PowerCut);
            for _ in 0..200 {
                if self.hosts[i].disk.hits() > hits {
                    break;
                }
                sleep(Duration::from_micros(500)).await;
            }
        }
        self.kill(i);
        self.hosts[i].disk = self.hosts[i].disk.power_cycle();
        self.hosts[i].read_disk(&self.world);
        self.world.counts.add(Fault::PowerCut);
    }

    /// A machine, or only the process on it, stands still for a while.
    async fn stand(&mut self, i: usize, how: Fault) {
        let Some(up) = self.hosts[i].up.clone() else { return };
        let clock = self.hosts[i].clock.clone();
        up.machine.stop();
        clock.set_stand(match how {
            Fault::Suspend => Stand::Suspended,
            Fault::Freeze => Stand::Frozen,
            _ => Stand::Runs,
        });
        let size = self.rng.below(9);
        let time = Duration::from_millis(20 + self.rng.below(16 << size));
        self.world.counts.add(how);
        // Others things go wrong meanwhile.
        drop(tokio::spawn(async move {
            sleep(time).await;
            clock.set_stand(Stand::Runs);
            up.machine.go_on();
        }));
    }

    /// The disk of a machine was copied while it was off. Once all others know the machine's process again the copy is started elsewhere, where
    /// everybody hears it: what some have not heard of they cannot refuse.
    async fn twin(&mut self, i: usize) {
        if self.twin.is_some() || self.hosts[i].lost.is_some() || !self.kill(i) {
            return;
        }
        let disk = self.hosts[i].disk.kill_process();
        let copy = disk.copy();
        self.hosts[i].disk = disk;
        self.hosts[i].read_disk(&self.world);
        self.net.heal();
        self.boot(i).await;
        let Some(up) = self.hosts[i].up.clone() else { return };
        let index = |up: &Arc<Up>| up.access.read_local(|ledger| ledger.applied().index).unwrap_or(0);
        let known = async {
            while up.node.session().id().0 == 0 {
                sleep(LOOK).await;
            }
            let least = index(&up);
            while self.world.processes().iter().any(|up| up.lives() && index(up) < least) {
                sleep(LOOK).await;
            }
        };
        if timeout(KNOWN, known).await.is_err() {
            return;
        }
        let mut twin = self.hosts[i].twin(copy, self.world.wall_ms());
        let booted = timeout(START, twin.boot(&self.names, &self.net, &self.world)).await;
        if let Ok(Ok(up)) = booted
            && timeout(KNOWN, async {
                while up.lives() {
                    sleep(LOOK).await
                }
            })
            .await
            .is_ok()
        {
            let why = up.ended.lock().unwrap().clone();
            self.world.trace.note(format_args!("the twin {} ends: {why:?}", up.name));
            self.world.counts.add(Fault::Twin);
            self.twin = Some(twin);
        } else {
            // Whoever had to refuse it stood still.
            twin.kill(&self.net);
            self.world.counts.done("twin not heard");
        }
        self.twin_is_nobody();
    }

    /// I-19: nobody has taken the twin for a member.
    fn twin_is_nobody(&self) {
        let Some(up) = self.twin.as_ref().and_then(|twin| twin.up.as_ref()) else { return };
        assert!(!up.lives() && up.node.session().id().0 == 0, "I-19: the cluster has opened a session for the twin {}", up.name);
    }

    fn kill_twin(&mut self) {
        if let Some(mut twin) = self.twin.take() {
            twin.kill(&self.net);
        }
    }

    fn flips(&self) -> u64 {
        self.world.counts.of(Fault::Flip) + self.world.counts.of(Fault::FlipOfLog)
    }

    /// A bit of a machine that is off is not what it was. One machine a run: the others still know everything.
    async fn flip(&mut self, i: usize) {
        if self.hosts.iter().any(|h| h.lost.is_some()) || self.flips() > 0 {
            return;
        }
        // At the end of a log that lost power, damage cannot be told from a write that was cut short: logs are damaged where only the process died.
        let log = self.kill(i) && self.rng.below(2) == 0;
        let disk = &mut self.hosts[i].disk;
        *disk = if log { disk.kill_process() } else { disk.power_cycle() };
        self.hosts[i].read_disk(&self.world);
        let disk = &self.hosts[i].disk;
        let mut files = disk.list().unwrap();
        files.retain(|name| if log { name.starts_with("wal-") } else { name == "state.redb" });
        // The last parts of a log, and of a file the part that is in use.
        let Some(name) = files.iter().rev().nth(self.rng.below(files.len().clamp(1, 2) as u64) as usize) else { return };
        let used = disk.content(name).iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        if used > 0 {
            // A log's newer end, the state's beginning, where things are.
            let within = 1 + self.rng.below(used * 8);
            let bit = self.rng.below(within);
            let bit = if log { used * 8 - 1 - bit } else { bit };
            disk.flip(name, bit);
            self.world.raft.lock().unwrap().damaged(&self.hosts[i].name);
            self.world.counts.add(if log { Fault::FlipOfLog } else { Fault::Flip });
            self.world.trace.note(format_args!("bit {bit} of {name} of {} is flipped", self.hosts[i].name));
        }
    }

    /// Clients elsewhere.
    pub fn clients(&mut self, count: u64) -> Vec<Client> {
        (1..=count).map(|number| Client::new(&self.world, number, &mut self.rng)).collect()
    }
}
