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
    /// `jitter` is drawn anew for each failure from `[0, 1)`: an exponential wait lies between half of its nominal
    /// length and the whole of it, so that tasks that failed together do not come back together. A constant delay is
    /// kept as it was asked for.
    #[must_use]
    pub fn wait_after(&self, try_number: i32, jitter: f64) -> Duration {
        if !self.exponential {
            return self.delay.min(self.max_delay);
        }
        let doublings = u32::try_from(try_number.saturating_sub(1)).unwrap_or(0).min(40);
        let nominal = self.delay.saturating_mul(2_u32.saturating_pow(doublings.min(31))).min(self.max_delay);
        nominal.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_waits_double_up_to_the_cap_and_jitter_takes_at_most_half() {
        let policy = RetryPolicy {
            retries: 9,
            delay: Duration::from_secs(10),
            exponential: true,
            max_delay: Duration::from_secs(60),
        };
        let longest: Vec<u64> = (1..=5).map(|n| policy.wait_after(n, 1.0).as_secs()).collect();
        assert_eq!(longest, [10, 20, 40, 60, 60]);
        assert_eq!(policy.wait_after(2, 0.0).as_secs(), 10);
        assert_eq!(policy.wait_after(i32::MAX, 1.0).as_secs(), 60);
    }

    #[test]
    fn tries_are_counted_from_one() {
        let policy = RetryPolicy { retries: 2, ..RetryPolicy::default() };
        assert!(policy.allows_another(1) && policy.allows_another(2) && !policy.allows_another(3));
        assert!(!RetryPolicy::default().allows_another(1));
    }
}
