//! When a failed task is tried again: Airflow's keys, with real jitter.

use std::time::Duration;

/// How often and how soon a task is tried again; Airflow's `retries`, `retry_delay`, `retry_exponential_backoff` and
/// `max_retry_delay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Counted retries after the first try; 0 means one try.
    pub retries: u32,
    /// The wait before the first retry.
    pub delay: Duration,
    /// Whether each further wait doubles.
    pub exponential: bool,
    /// The longest wait, jitter included.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    /// Airflow's defaults: no retries, 5 minutes, no backoff, at most a day.
    fn default() -> Self {
        Self {
            retries: 0,
            delay: Duration::from_secs(300),
            exponential: false,
            max_delay: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl RetryPolicy {
    /// Whether a task that failed on try `try_number` (from 1) has another one.
    #[must_use]
    pub fn allows_another(&self, try_number: i32) -> bool {
        i64::from(try_number) <= i64::from(self.retries)
    }

    /// The wait after try `try_number` (from 1) failed.
    ///
    /// A constant delay is kept as it was asked for. An exponential one lies, as Airflow's does, between its nominal
    /// length and twice that, capped: `jitter` is drawn anew for each failure from `[0, 1)`, so that tasks that failed
    /// together do not come back together. At the cap they still spread, over the half below it; no wait is shorter
    /// than `delay`.
    #[must_use]
    pub fn wait_after(&self, try_number: i32, jitter: f64) -> Duration {
        let least = self.delay.min(self.max_delay);
        if !self.exponential {
            return least;
        }
        let doublings = u32::try_from(try_number.saturating_sub(1)).unwrap_or(0).min(31);
        let nominal = self.delay.saturating_mul(2_u32.saturating_pow(doublings));
        let longest = nominal.saturating_mul(2).min(self.max_delay);
        let shortest = nominal.min(longest / 2).max(least);
        shortest + longest.saturating_sub(shortest).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_waits_double_up_to_the_cap_and_are_never_shorter_than_asked_for() {
        let policy = RetryPolicy {
            retries: 9,
            delay: Duration::from_secs(10),
            exponential: true,
            max_delay: Duration::from_secs(60),
        };
        let between = |jitter| (1..=5).map(|n| policy.wait_after(n, jitter).as_secs()).collect::<Vec<_>>();
        assert_eq!(between(0.0), [10, 20, 30, 30, 30]);
        assert_eq!(between(1.0), [20, 40, 60, 60, 60]);
        assert_eq!(policy.wait_after(i32::MAX, 1.0).as_secs(), 60);
        let capped = RetryPolicy { max_delay: Duration::from_secs(5), ..policy };
        assert_eq!((capped.wait_after(3, 0.0).as_secs(), capped.wait_after(3, 1.0).as_secs()), (5, 5));
        let longest = RetryPolicy { delay: Duration::MAX, max_delay: Duration::MAX, ..capped };
        assert_eq!(longest.wait_after(9, 0.5), Duration::MAX);
    }

    #[test]
    fn tries_are_counted_from_one() {
        let policy = RetryPolicy { retries: 2, ..RetryPolicy::default() };
        assert!(policy.allows_another(1) && policy.allows_another(2) && !policy.allows_another(3));
        assert!(!RetryPolicy::default().allows_another(1));
    }
}
