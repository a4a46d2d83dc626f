//! Figures: gathered, and printed as medians.

use std::collections::BTreeMap;

/// What a load gave: pairs/s, latency of a pair and processor time of the servers for a pair, us.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
    pub cpu: f64,
}

#[derive(Default)]
pub struct Medians {
    order: Vec<String>,
    all: BTreeMap<String, (&'static str, String, Vec<(f64, f64)>)>,
}

impl Medians {
    pub fn add(&mut self, name: &str, unit: &'static str, ours: f64, theirs: f64, reference: &str) {
        if !self.all.contains_key(name) {
            self.order.push(name.to_owned());
        }
        self.all.entry(name.to_owned()).or_insert((unit, reference.to_owned(), Vec::new())).2.push((ours, theirs));
    }

    /// `name` has `{}` where what is measured goes.
    pub fn load(&mut self, name: &str, ours: &Load, theirs: &Load, reference: &str) {
        for (what, unit, us, them) in [
            ("pairs", "1/s", ours.rate, theirs.rate),
            ("pair_p50", "us", ours.p50, theirs.p50),
            ("pair_p99", "us", ours.p99, theirs.p99),
            ("pair_cpu", "us of the servers", ours.cpu, theirs.cpu),
        ] {
            self.add(&name.replace("{}", what), unit, us, them, reference);
        }
    }

    pub fn print(&self) {
        for name in &self.order {
            let Some((unit, reference, all)) = self.all.get(name) else { continue };
            let median = |part: fn(&(f64, f64)) -> f64| {
                let mut values: Vec<f64> = all.iter().map(part).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            print(name, unit, median(|v| v.0), reference, median(|v| v.1), all.len());
        }
    }
}

/// One line. Without a reference there is no ratio.
pub fn print(name: &str, unit: &str, ours: f64, reference: &str, theirs: f64, n: usize) {
    let rest = if theirs > 0.0 {
        format!("\"reference\": \"{reference}\", \"ref\": {theirs:.2}, \"ratio\": {:.3}", ours / theirs)
    } else {
        "\"reference\": \"none\"".to_owned()
    };
    println!("{{\"figure\": \"{name}\", \"unit\": \"{unit}\", \"ours\": {ours:.2}, {rest}, \"n\": {n}}}");
}

/// Processor time of these processes, us.
pub fn cpu_us(processes: &[u32]) -> std::io::Result<u64> {
    let mut sum = 0;
    for pid in processes {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks: u64 = fields.get(11..13).unwrap_or_default().iter().filter_map(|f| f.parse::<u64>().ok()).sum();
        sum += ticks * 10_000;
    }
    Ok(sum)
}

/// Resident memory of these processes that belongs to no file, bytes.
pub fn memory(processes: &[u32]) -> std::io::Result<u64> {
    let mut sum = 0;
    for pid in processes {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        sum += line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024;
    }
    Ok(sum)
}
