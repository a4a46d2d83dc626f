//! What an orchestrator counts of itself.

/// Upper bounds of the classes of times, ms.
const CLASSES_MS: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 5_000, 60_000, 600_000, 3_600_000, 86_400_000];

/// Times by class, the last class for all that is longer.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(transparent)]
pub(super) struct Times([u64; 16]);

impl Times {
    pub(super) fn count(&mut self, ms: u64) {
        let class = CLASSES_MS.iter().position(|bound| ms <= *bound).unwrap_or(CLASSES_MS.len());
        self.0[class] += 1;
    }

    /// Upper bound of the class in which the share `p` lies, ms; 0 for none.
    pub(super) fn share_ms(&self, p: f64) -> u64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * p).ceil() as u64;
        let mut seen = 0;
        for (class, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return CLASSES_MS.get(class).copied().unwrap_or(u64::MAX);
            }
        }
        0
    }
}

/// Counts since it was opened.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Figures {
    /// Attempts begun here.
    pub started: u64,
    /// From the nominal instant to the start.
    pub lags: Times,
    /// From the proposal of a start to the answer.
    pub claims: Times,
    /// From the start of an attempt to its end.
    pub durations: Times,
    /// Longest time between two renewals of one attempt, ms.
    pub renewal_gap_max_ms: u64,
    /// Proposals by what was answered.
    pub proposals: std::collections::BTreeMap<String, u64>,
}

impl Figures {
    pub(super) fn started(&mut self, lag_ms: u64) {
        self.started += 1;
        self.lags.count(lag_ms);
    }

    pub(super) fn renewal(&mut self, gap_ns: u64) {
        self.renewal_gap_max_ms = self.renewal_gap_max_ms.max(gap_ns / 1_000_000);
    }

    pub(super) fn answered(&mut self, answer: &str) {
        *self.proposals.entry(answer.to_owned()).or_default() += 1;
    }
}
