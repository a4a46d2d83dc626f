//! Our members as child processes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stats::{self, Load};
use super::{Res, ports, wrong};

/// How the members are set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Default,
    /// Shorter elections, for machines that keep up.
    Tuned,
    /// Sessions that outlive a restart.
    Patient,
}

struct Member {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Member {
    fn tell(&mut self, line: &str) -> Res<()> {
        let input = self.child.stdin.as_mut().ok_or_else(|| wrong("no input"))?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    fn answer(&mut self) -> Res<Vec<String>> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(wrong("a member has ended; what it said is above"));
        }
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    fn ask(&mut self, line: &str) -> Res<Vec<String>> {
        self.tell(line)?;
        self.answer()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A cluster of ours. Its processes end with it.
pub struct Members {
    members: Vec<Member>,
    commands: Vec<Vec<String>>,
    /// Whose process the load runs in.
    leader: usize,
}

impl Members {
    pub fn start(count: usize, dir: &Path, kind: Kind) -> Res<Members> {
        std::fs::create_dir_all(dir)?;
        let ports = ports(count)?;
        let peers: Vec<String> = ports.iter().enumerate().map(|(i, p)| format!("n{i}=127.0.0.1:{p}")).collect();
        let settings = |i: usize| -> Vec<String> {
            let home: PathBuf = dir.join(format!("n{i}"));
            let mut all = vec![
                format!("node_id=n{i}"),
                format!("data_dir={}", home.display()),
                format!("listen=127.0.0.1:{}", ports[i]),
                format!("peers={}", peers.join(",")),
                "cluster_id=bench".to_owned(),
            ];
            match kind {
                Kind::Default => {}
                Kind::Tuned => all.extend(["heartbeat_ms=16", "election_min_ms=50", "election_max_ms=100"].map(String::from)),
                Kind::Patient => all.push("session_ttl_ms=600000".to_owned()),
            }
            all
        };
        let mut members = Members { members: Vec::new(), commands: (0..count).map(settings).collect(), leader: 0 };
        members.start_again()?;
        Ok(members)
    }

    pub fn kill(&mut self) {
        self.members.clear();
    }

    pub fn start_again(&mut self) -> Res<()> {
        for command in &self.commands {
            let mut child =
                Command::new(std::env::current_exe()?).arg("member").args(command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let answers = BufReader::new(child.stdout.take().ok_or_else(|| wrong("no output"))?);
            self.members.push(Member { child, answers });
        }
        for member in &mut self.members {
            member.ask("ready")?;
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            for (i, member) in self.members.iter_mut().enumerate() {
                if member.ask("leads")?.first().is_some_and(|l| l == "true") {
                    self.leader = i;
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(wrong("no leader within a minute"))
    }

    /// Hands an office around; from the last write that the one acknowledged to the first that the next let in, us.
    pub fn switches(&mut self, count: usize) -> Res<Vec<u64>> {
        let number = |words: Vec<String>| -> Res<u64> { Ok(words.first().ok_or_else(|| wrong("no answer"))?.parse()?) };
        let all = self.members.len();
        self.members[0].ask("campaign bench/office")?;
        number(self.members[0].ask("serves")?)?;
        for member in &mut self.members[1..] {
            member.ask("campaign bench/office")?;
        }
        let mut gaps = Vec::new();
        for i in 0..count {
            let (from, to) = (i % all, (i + 1) % all);
            self.members[from].ask(&format!("queued bench/office {}", all - 1))?;
            self.members[to].tell("serves")?;
            let last = number(self.members[from].ask(&format!("resign n{to} bench/office"))?)?;
            let first = number(self.members[to].answer()?)?;
            gaps.push(first.checked_sub(last).ok_or_else(|| wrong("two in office at once"))?);
        }
        Ok(gaps)
    }

    fn processes(&self) -> Vec<u32> {
        self.members.iter().map(|m| m.child.id()).collect()
    }

    pub fn cpu_us(&self) -> Res<u64> {
        Ok(stats::cpu_us(&self.processes())?)
    }

    pub fn memory(&self) -> Res<u64> {
        Ok(stats::memory(&self.processes())?)
    }

    fn numbers(&mut self, line: &str) -> Res<Vec<f64>> {
        let leader = self.leader;
        Ok(self.members[leader].ask(line)?.iter().filter_map(|w| w.parse().ok()).collect())
    }

    pub fn pairs(&mut self, clients: usize, seconds: f64) -> Res<Load> {
        let before = self.cpu_us()?;
        let [rate, p50, p99] = self.numbers(&format!("pairs {clients} {seconds}"))?[..] else { return Err(wrong("no figures")) };
        Ok(Load { rate, p50, p99, cpu: (self.cpu_us()? - before) as f64 / (rate * seconds) })
    }

    pub fn handoff(&mut self, waiters: usize, count: u64) -> Res<Load> {
        let [p50, p99] = self.numbers(&format!("handoff {waiters} {count}"))?[..] else { return Err(wrong("no figures")) };
        Ok(Load { p50, p99, ..Load::default() })
    }

    pub fn renewals(&mut self, clients: usize, seconds: f64) -> Res<f64> {
        let [rate] = self.numbers(&format!("renewals {clients} {seconds}"))?[..] else { return Err(wrong("no figures")) };
        Ok(rate)
    }

    /// The first member takes the locks; so what they cost a member and what they cost their holder can be told apart.
    pub fn fill(&mut self, locks: u64) -> Res<()> {
        self.members[0].ask(&format!("fill 0 {locks}")).map(drop)
    }

    /// A member that does not lead takes the locks and is killed; from the first lock that ends to the last, s, and how long renewals take
    /// on the leader meanwhile.
    pub fn expire(&mut self, locks: u64) -> Res<(f64, Load)> {
        let (leader, holder) = (self.leader, (self.leader + 1) % self.members.len());
        self.members[holder].ask(&format!("fill 0 {locks}"))?;
        self.members[leader].tell(&format!("expire {locks}"))?;
        send("KILL", self.members[holder].child.id())?;
        let said: Vec<f64> = self.members[leader].answer()?.iter().filter_map(|w| w.parse().ok()).collect();
        let [took, p50, p99] = said[..] else { return Err(wrong("no figures")) };
        Ok((took, Load { p50, p99, ..Load::default() }))
    }

    /// Of the member that [`Members::fill`] has hold locks, and of the others together.
    pub fn memories(&self) -> Res<(u64, u64)> {
        let all = self.processes();
        Ok((stats::memory(&all[..1])?, stats::memory(&all[1..])?))
    }

    /// Reads the last of so many locks, as of now.
    pub fn count(&mut self, locks: u64) -> Res<()> {
        match self.members[0].ask(&format!("held held-lock-{:09}", locks - 1))?.first() {
            Some(held) if held == "true" => Ok(()),
            _ => Err(wrong("a lock is gone")),
        }
    }

    /// As [`Members::memories`], when the last snapshot is made.
    pub fn settled(&self) -> Res<(u64, u64)> {
        let (mut last, mut same) = (self.memories()?, 0);
        while same < 3 {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.memories()?;
            same = if now.1.abs_diff(last.1) < last.1 / 100 { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Ends or stops the leader; how long it takes until another member is granted a lock, ms.
    pub fn outage(&mut self, signal: &str) -> Res<f64> {
        let (leader, other) = (self.leader, (self.leader + 1) % self.members.len());
        for i in 0..20 {
            self.members[other].ask(&format!("grant warm-{i}"))?;
        }
        std::thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        send(signal, self.members[leader].child.id())?;
        self.members[other].ask("grant after")?;
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    }
}

/// Sends a signal to a process that this one has started.
pub fn send(signal: &str, process: u32) -> Res<()> {
    let sent = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status()?;
    if sent.success() { Ok(()) } else { Err(wrong("a signal was not sent")) }
}
