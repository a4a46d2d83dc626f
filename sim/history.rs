//! Histories of lock operations as JSON lines, one operation a line: what simulations and real processes write, and [`super::linear`] checks.
//!
//! ```json
//! {"key": "a", "by": "w1", "op": "acquire", "call": 10, "ret": 25, "result": "granted", "token": 7, "ttl": 1000}
//! ```
//!
//! | field | |
//! |---|---|
//! | `key`, `by` | the lock; who asked: a session |
//! | `op`, `result` | `acquire`: `granted`, `refused` (at once, because of others), `unknown`; `release`: `released`, `stale`, `unknown`; `renew`: `held`, `stale`; `holder`: `read`; `held`: `held`, the holder's own view at `call` |
//! | `call`, `ret` | when it was asked and answered, ns of one clock for all; no `ret` when there was no answer |
//! | `token`, `left` | of the grant, or of the first holder; how often it is still held after a release |
//! | `mode`, `count`, `limit`, `reentrant` | of an acquisition: `exclusive` unless it says `shared` or `permits` |
//! | `ttl` | of a grant or renewal, ns: so long it cannot run out, less the clocks' error of 2 % |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::linear::{Call, Mode, Op, Verdict, check};

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Line {
    /// The lock.
    pub key: String,
    /// Who asked.
    pub by: String,
    /// What.
    pub op: String,
    /// What was answered.
    pub result: String,
    /// When it was asked.
    pub call: u64,
    /// When it was answered.
    pub ret: Option<u64>,
    /// The grant.
    pub token: Option<u64>,
    /// How often it is still held.
    pub left: Option<u32>,
    /// How holders exclude each other.
    pub mode: Option<String>,
    /// Permits taken.
    pub count: Option<u32>,
    /// Permits there are.
    pub limit: Option<u32>,
    /// Whether the same owner may take it again.
    pub reentrant: bool,
    /// How long it lives.
    pub ttl: u64,
}

impl Line {
    fn mode(&self) -> Result<Mode, String> {
        Ok(match self.mode.as_deref() {
            None | Some("exclusive") => Mode::Exclusive { reentrant: self.reentrant },
            Some("shared") => Mode::Shared,
            Some("permits") => Mode::Permits { count: self.count.unwrap_or(1), limit: self.limit.ok_or("no limit")? },
            Some(other) => return Err(format!("no mode is called {other}")),
        })
    }

    /// What it is to the checker, if it is anything.
    fn step(&self, lives: &BTreeMap<u64, u64>) -> Result<Option<Op>, String> {
        let token = self.token.ok_or("no token");
        Ok(Some(match (self.op.as_str(), self.result.as_str()) {
            ("acquire", "granted") => {
                let token = token?;
                Op::Grant { mode: self.mode()?, token, lives_until: lives.get(&token).copied().unwrap_or(0) }
            }
            ("acquire", "refused") => Op::Refused,
            ("acquire", "unknown") => Op::Lost,
            ("release", "released") => Op::Release { token: token?, left: Some(self.left.unwrap_or(0)) },
            ("release", "stale") => Op::Release { token: token?, left: None },
            ("release", "unknown") => Op::LostRelease { token: token? },
            ("renew", "held") => Op::Renew { token: token?, held: true },
            ("renew", "stale") => Op::Renew { token: token?, held: false },
            ("holder", "read") => Op::Read { token: self.token },
            ("held", "held") => return Ok(None),
            (op, result) => return Err(format!("no operation {op} is answered {result}")),
        }))
    }
}

/// The lines of a text.
///
/// # Errors
/// The number of the line that is none, and why.
pub fn read(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", at + 1))).collect()
}

/// The operations of each key.
///
/// # Errors
/// The line that makes no sense, and why.
pub fn by_key(lines: &[Line]) -> Result<BTreeMap<String, Vec<Call>>, String> {
    let mut lives: BTreeMap<u64, u64> = BTreeMap::new();
    for line in lines {
        let until = match (line.op.as_str(), line.result.as_str()) {
            // Taken again, a lock lives no longer for it.
            ("acquire", "granted") if line.reentrant => 0,
            ("acquire", "granted") | ("renew", "held") => line.call + line.ttl / 100 * 98,
            ("held", "held") => line.call,
            _ => continue,
        };
        let known = lives.entry(line.token.unwrap_or(0)).or_default();
        *known = (*known).max(until);
    }
    let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
    let mut keys: BTreeMap<String, Vec<Call>> = BTreeMap::new();
    for line in lines {
        let op = line.step(&lives).map_err(|why| format!("{why}: {line:?}"))?;
        let next = owners.len() as u64 + 1;
        let owner = *owners.entry(&line.by).or_insert(next);
        let calls = keys.entry(line.key.clone()).or_default();
        calls.extend(op.map(|op| Call { owner, call: line.call, ret: line.ret.unwrap_or(u64::MAX), op }));
    }
    Ok(keys)
}

/// Checks all keys; answers how many operations there were.
///
/// # Errors
/// What is wrong with the history: a line, a key that has no order, or one whose search was given up.
pub fn judge(lines: &[Line], budget: u64) -> Result<usize, String> {
    let mut count = 0;
    for (key, calls) in by_key(lines)? {
        count += calls.len();
        match check(&calls, budget) {
            Verdict::Linearizable => {}
            Verdict::Refused(at) => return Err(format!("I-17: key {key} is not linearizable; no order gets past {at:#?}")),
            Verdict::Undecided => return Err(format!("I-17: key {key}: undecided after {budget} choices for {} operations", calls.len())),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are of processes that never were; the second one's lock was given to two.
    const GOOD: &str = include_str!("histories/good.jsonl");
    const BAD: &str = include_str!("histories/bad.jsonl");

    #[test]
    fn a_good_history_is_accepted_and_a_bad_one_refused() {
        assert_eq!(judge(&read(GOOD).unwrap(), 10_000), Ok(12));
        let why = judge(&read(BAD).unwrap(), 10_000).unwrap_err();
        assert!(why.contains("key b is not linearizable"), "{why}");
        assert!(judge(&read(GOOD).unwrap(), 3).unwrap_err().contains("undecided"));
    }

    #[test]
    fn lines_that_make_no_sense_are_named() {
        assert!(read("{}\n{").unwrap_err().starts_with("line 2: "));
        assert!(read(r#"{"what": 1}"#).is_err());
        let line = Line { op: "acquire".into(), result: "released".into(), ..Line::default() };
        assert!(judge(&[line], 1).unwrap_err().starts_with("no operation acquire is answered released"));
        assert!(judge(&[Line { op: "acquire".into(), result: "granted".into(), ..Line::default() }], 1).is_err());
    }
}
