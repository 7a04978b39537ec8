//! How a sensor waits: Airflow's keys of all sensors.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::duration::parse_duration;
use crate::domain::operator_kind::ConfigProblem;
use crate::operators::config::Scalar;

/// Airflow's pause between two looks.
const INTERVAL: Duration = Duration::from_secs(60);

/// Airflow's limit: seven days.
const TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Airflow's ways to wait. A sensor takes no slot here in any of them.
#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::operators) enum Mode {
    /// In Airflow: in its slot.
    Poke,
    /// In Airflow: its slot is free between two looks.
    Reschedule,
    /// In Airflow: in the triggerer.
    Deferrable,
}

/// How long it is waited, and how often looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operators) struct Patience {
    /// The pause between two looks.
    pub(in crate::operators) interval: Duration,
    /// How long after the task's first attempt began it is given up; nothing for never.
    pub(in crate::operators) timeout: Option<Duration>,
    /// Whether the task is skipped then, rather than failed.
    pub(in crate::operators) is_soft: bool,
    /// Whether each pause is twice the one before.
    pub(in crate::operators) is_growing: bool,
    /// The longest pause.
    pub(in crate::operators) longest: Option<Duration>,
}

impl Patience {
    /// Looks every so often until somebody ends it.
    pub(in crate::operators) fn endless(interval: Duration) -> Self {
        Self { interval, timeout: None, is_soft: false, is_growing: false, longest: None }
    }

    /// The pause after that many looks. `chance`, from 0 to 1, moves it by up to a tenth, so that those who began together
    /// do not look together.
    pub(in crate::operators) fn pause(&self, looks: u32, chance: f64) -> Duration {
        let doublings = if self.is_growing { looks.min(20) } else { 0 };
        let pause = self.interval.saturating_mul(1 << doublings);
        pause.min(self.longest.unwrap_or(TIMEOUT)).mul_f64(0.9 + chance * 0.2)
    }
}

/// Who can wait.
pub(in crate::operators) trait Patient {
    /// How it waits, or what is wrong with the keys that say so.
    fn patience(&self) -> Result<Patience, Vec<ConfigProblem>>;
}

/// The keys of all sensors, as they were given.
pub(in crate::operators) struct Keys<'a> {
    pub(in crate::operators) poke_interval: Option<&'a Scalar>,
    pub(in crate::operators) timeout: Option<&'a Scalar>,
    pub(in crate::operators) soft_fail: bool,
    pub(in crate::operators) exponential_backoff: bool,
    pub(in crate::operators) max_wait: Option<&'a Scalar>,
}

impl Keys<'_> {
    pub(in crate::operators) fn read(&self) -> Result<Patience, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let mut read = |key, given| match positive(key, given) {
            Ok(duration) => duration,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let interval = read("poke_interval", self.poke_interval).unwrap_or(INTERVAL);
        let timeout = read("timeout", self.timeout).or(Some(TIMEOUT));
        let longest = read("max_wait", self.max_wait);
        if longest.is_some() && !self.exponential_backoff {
            problems.push(
                ConfigProblem::at("max_wait", "all pauses are the same")
                    .help("pauses grow up to it where `exponential_backoff` is true"),
            );
        }
        let (is_soft, is_growing) = (self.soft_fail, self.exponential_backoff);
        if problems.is_empty() {
            Ok(Patience { interval, timeout, is_soft, is_growing, longest })
        } else {
            Err(problems)
        }
    }
}

/// A duration that is not zero, where one is given.
pub(in crate::operators) fn positive(key: &str, given: Option<&Scalar>) -> Result<Option<Duration>, ConfigProblem> {
    let Some(given) = given else { return Ok(None) };
    let wrong = |message: String| ConfigProblem::at(key, message).help("write it as `30s`, `5m` or `2h`");
    match parse_duration(&given.clone().into_text()) {
        Ok(duration) if duration.is_zero() => Err(wrong("it must be more than zero".to_owned())),
        Ok(duration) => Ok(Some(duration)),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Declares a sensor's keys: its own, and those of all sensors.
macro_rules! sensor_keys {
    ($(#[$about:meta])* $name:ident { $($(#[$key_about:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($(#[$key_about])* $key: $type,)*
            /// How long it is between two looks, as `30s`. Default: 60s.
            #[serde(default)]
            poke_interval: Option<$crate::operators::config::Scalar>,
            /// How long it is waited, from the task's first attempt on, as `2h`. Default: 7 days. Then the task fails,
            /// and is not tried again.
            #[serde(default)]
            timeout: Option<$crate::operators::config::Scalar>,
            /// Whether the task is skipped after the timeout, rather than failed.
            #[serde(default)]
            soft_fail: bool,
            /// Whether each pause is twice the one before.
            #[serde(default)]
            exponential_backoff: bool,
            /// The longest pause, where pauses grow.
            #[serde(default)]
            max_wait: Option<$crate::operators::config::Scalar>,
            /// Airflow's way to wait: `poke`, `reschedule` or `deferrable`. No slot is taken in any of them.
            #[serde(default, rename = "mode")]
            _mode: Option<$crate::operators::sensor::patience::Mode>,
            /// As in Airflow. No slot is taken either way.
            #[serde(default, rename = "deferrable")]
            _deferrable: Option<bool>,
        }

        impl $crate::operators::sensor::patience::Patient for $name {
            fn patience(
                &self,
            ) -> Result<
                $crate::operators::sensor::patience::Patience,
                Vec<$crate::domain::operator_kind::ConfigProblem>,
            > {
                let keys = $crate::operators::sensor::patience::Keys {
                    poke_interval: self.poke_interval.as_ref(),
                    timeout: self.timeout.as_ref(),
                    soft_fail: self.soft_fail,
                    exponential_backoff: self.exponential_backoff,
                    max_wait: self.max_wait.as_ref(),
                };
                keys.read()
            }
        }
    };
}

pub(super) use sensor_keys;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys<'static> {
        Keys { poke_interval: None, timeout: None, soft_fail: false, exponential_backoff: false, max_wait: None }
    }

    #[test]
    fn airflows_defaults_hold_and_pauses_grow_to_their_limit() {
        let patience = keys().read().unwrap();
        assert_eq!((patience.interval, patience.timeout), (INTERVAL, Some(TIMEOUT)));
        assert_eq!(patience.pause(9, 0.5), INTERVAL);
        assert_eq!(patience.pause(0, 0.0), Duration::from_secs(54));
        let five = Scalar::Text("5m".to_owned());
        let growing = Keys { exponential_backoff: true, max_wait: Some(&five), ..keys() }.read().unwrap();
        let pauses: Vec<u64> = [0, 1, 2, 3, 90].iter().map(|&looks| growing.pause(looks, 0.5).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300]);
    }

    #[test]
    fn mistakes_name_their_keys() {
        let (soon, nothing) = (Scalar::Text("soon".to_owned()), Scalar::Text("0s".to_owned()));
        let wrong = Keys { poke_interval: Some(&nothing), timeout: Some(&soon), max_wait: Some(&soon), ..keys() };
        let paths: Vec<String> = wrong.read().unwrap_err().iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(paths, ["poke_interval", "timeout", "max_wait"]);
        let five = Scalar::Text("5m".to_owned());
        assert!(Keys { max_wait: Some(&five), ..keys() }.read().is_err());
    }
}
