//! What an orchestrator counts of itself.

/// Upper bounds of the classes of start lags, ms.
const LAGS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 5_000, 60_000];

/// Counts since it was opened.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Figures {
    /// Attempts begun here.
    pub started: u64,
    /// By class of start lag, the last class for all that is longer.
    lags: [u64; 13],
    /// Longest time between two renewals of one attempt, ms.
    pub renewal_gap_max_ms: u64,
    /// Proposals by what was answered.
    pub proposals: std::collections::BTreeMap<String, u64>,
}

impl Figures {
    pub(super) fn started(&mut self, lag_ms: u64) {
        self.started += 1;
        let class = LAGS_MS.iter().position(|bound| lag_ms <= *bound).unwrap_or(LAGS_MS.len());
        self.lags[class] += 1;
    }

    pub(super) fn renewal(&mut self, gap_ns: u64) {
        self.renewal_gap_max_ms = self.renewal_gap_max_ms.max(gap_ns / 1_000_000);
    }

    pub(super) fn answered(&mut self, answer: &str) {
        *self.proposals.entry(answer.to_owned()).or_default() += 1;
    }

    /// Upper bound of the class in which the share `p` of the start lags lies, ms.
    pub(super) fn lag_ms(&self, p: f64) -> u64 {
        let wanted = (self.started as f64 * p).ceil() as u64;
        let mut seen = 0;
        for (class, count) in self.lags.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return LAGS_MS.get(class).copied().unwrap_or(u64::MAX);
            }
        }
        0
    }
}
