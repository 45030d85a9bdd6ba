//! Faults on demand: what the local cloud does wrong because a test asked for it.
//!
//! Owns the rules and their counts; promises that a rule fires exactly as often as it says, that `dropped after` means
//! that the operation was applied, and that chances repeat with the same seed. Never touches stored state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, from_unix_ms, unix_ms};

/// Rules that may be set at a time.
pub const MAX_RULES: usize = 256;
/// Longest latency of a rule, in milliseconds.
pub const MAX_LATENCY_MS: u64 = 600_000;

/// What one rule does to the calls that it matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    /// Only the rule's latency; the call is answered as ever.
    Delay,
    /// An AWS error in the service's own shape; the call is not applied.
    Error {
        /// The HTTP status, for example 503.
        status: u16,
        /// The code, for example `SlowDown` or `TooManyRequestsException`.
        code: String,
        /// AWS's words; the code's name where left out.
        #[serde(default)]
        message: Option<String>,
    },
    /// The connection is cut and the call is not applied.
    DropBefore,
    /// The call is applied and the connection is cut in the place of the answer.
    DropAfter,
    /// The call's credentials count as expired.
    ExpiredCredentials,
}

/// One rule. The first rule that matches a call and fires decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `s3:UploadPart`, `GetCredentialsForIdentity`, `s3:*` or `*`.
    pub operation: String,
    /// Fires only for S3 keys that contain this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_contains: Option<String>,
    /// Lets this many matching calls pass first.
    #[serde(default)]
    pub skip: u32,
    /// Fires this often, then ends; left out: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
    /// Fires with this chance, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// Waits this long first, in milliseconds.
    #[serde(default)]
    pub latency_ms: u64,
    /// What it does.
    pub effect: Effect,
}

impl Rule {
    /// A rule that always fires.
    pub fn new(operation: impl Into<String>, effect: Effect) -> Self {
        Self {
            operation: operation.into(),
            key_contains: None,
            skip: 0,
            next: None,
            probability: 1.0,
            latency_ms: 0,
            effect,
        }
    }

    /// The same rule for the next `calls` calls only.
    #[must_use]
    pub fn next(mut self, calls: u32) -> Self {
        self.next = Some(calls);
        self
    }

    /// The same rule, with this latency.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self
    }

    fn matches(&self, operation: &str, key: &str) -> bool {
        let bare = operation.split_once(':').map_or(operation, |(_, bare)| bare);
        let operation_fits = match self.operation.strip_suffix('*') {
            Some(start) => operation.starts_with(start),
            None => self.operation == operation || self.operation == bare,
        };
        operation_fits && self.key_contains.as_ref().is_none_or(|part| key.contains(part.as_str()))
    }
}

/// Everything that is wrong at the moment, as `/_tidegate/faults` shows and takes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// Every request except the local cloud's own is cut.
    pub offline: bool,
    /// The cloud's clock minus the machine's, in milliseconds.
    pub clock_skew_ms: i64,
    /// Seeds the chances.
    pub seed: u64,
}

/// A plan that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Too many rules.
    #[error("{0} fault rules are more than {MAX_RULES}; put fewer")]
    TooManyRules(usize),
    /// A chance outside 0 to 1.
    #[error("the rule for {operation} has probability {probability}; give one from 0 to 1")]
    Probability {
        /// The rule's operation.
        operation: String,
        /// Its chance.
        probability: f64,
    },
    /// A status that is no error.
    #[error("the rule for {operation} has status {status}; give one from 400 to 599")]
    Status {
        /// The rule's operation.
        operation: String,
        /// Its status.
        status: u16,
    },
    /// A latency that is too long.
    #[error("the rule for {operation} waits {latency_ms} ms; give at most {MAX_LATENCY_MS}")]
    Latency {
        /// The rule's operation.
        operation: String,
        /// Its latency.
        latency_ms: u64,
    },
}

/// What happens to one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Wait this long first.
    pub latency: Duration,
    /// Then do this.
    pub effect: Effect,
}

/// The handle to the faults; clones share them.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    random: StdRng,
}

impl Faults {
    /// Nothing is wrong yet. A skew moves `clock`.
    pub fn new(clock: &Clock) -> Self {
        let state = State { plan: Plan::default(), random: StdRng::seed_from_u64(0) };
        Self(Arc::new(Inner { clock: clock.clone(), state: Mutex::new(state) }))
    }

    /// Puts this plan in the place of the present one.
    ///
    /// # Errors
    /// [`FaultError`]; the present plan stays.
    pub fn replace(&self, plan: Plan) -> Result<(), FaultError> {
        if plan.rules.len() > MAX_RULES {
            return Err(FaultError::TooManyRules(plan.rules.len()));
        }
        for rule in &plan.rules {
            check(rule)?;
        }
        let mut state = self.lock();
        state.random = StdRng::seed_from_u64(plan.seed);
        self.move_clock(plan.clock_skew_ms);
        state.plan = plan;
        Ok(())
    }

    /// Adds a rule behind those that are there.
    ///
    /// # Errors
    /// [`FaultError`].
    pub fn add(&self, rule: Rule) -> Result<(), FaultError> {
        check(&rule)?;
        let mut state = self.lock();
        if state.plan.rules.len() >= MAX_RULES {
            return Err(FaultError::TooManyRules(MAX_RULES + 1));
        }
        state.plan.rules.push(rule);
        Ok(())
    }

    /// Nothing is wrong any more.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.plan = Plan::default();
        self.move_clock(0);
    }

    /// Cuts (or serves again) every request except the local cloud's own.
    pub fn set_offline(&self, offline: bool) {
        self.lock().plan.offline = offline;
    }

    /// Lets the cloud's clock go this much ahead of the machine's, in milliseconds; everything that the cloud dates
    /// follows: `Date`, tokens, expirations, the skew that signatures are allowed.
    pub fn set_clock_skew_ms(&self, skew_ms: i64) {
        let mut state = self.lock();
        state.plan.clock_skew_ms = skew_ms;
        self.move_clock(skew_ms);
    }

    /// What is wrong at the moment; the counts of rules that end are those that are left.
    pub fn plan(&self) -> Plan {
        self.lock().plan.clone()
    }

    /// Whether requests are cut.
    pub fn is_offline(&self) -> bool {
        self.lock().plan.offline
    }

    /// What happens to this call. Counts it against the rules.
    pub fn strike(&self, operation: &str, key: &str) -> Option<Outcome> {
        let mut state = self.lock();
        let State { plan, random } = &mut *state;
        let rules = &mut plan.rules;
        let mut struck = None;
        for rule in rules.iter_mut().filter(|rule| rule.next != Some(0) && rule.matches(operation, key)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.probability < 1.0 && random.random::<f64>() >= rule.probability {
                continue;
            }
            if let Some(left) = &mut rule.next {
                *left -= 1;
            }
            let latency = Duration::from_millis(rule.latency_ms);
            struck = Some(Outcome { latency, effect: rule.effect.clone() });
            break;
        }
        rules.retain(|rule| rule.next != Some(0));
        struck
    }

    fn move_clock(&self, skew_ms: i64) {
        let machine_unix_ms = unix_ms(self.0.clock.wall()).saturating_sub(self.0.clock.offset_ms());
        self.0.clock.observe_server_date(from_unix_ms(machine_unix_ms.saturating_add(skew_ms)));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn always() -> f64 {
    1.0
}

fn check(rule: &Rule) -> Result<(), FaultError> {
    let operation = rule.operation.clone();
    if !(0.0..=1.0).contains(&rule.probability) {
        return Err(FaultError::Probability { operation, probability: rule.probability });
    }
    if rule.latency_ms > MAX_LATENCY_MS {
        return Err(FaultError::Latency { operation, latency_ms: rule.latency_ms });
    }
    match rule.effect {
        Effect::Error { status, .. } if !(400..600).contains(&status) => Err(FaultError::Status { operation, status }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn slow_down() -> Effect {
        Effect::Error { status: 503, code: "SlowDown".into(), message: None }
    }

    #[test]
    fn a_rule_fires_as_often_as_it_says() {
        let faults = Faults::new(&Clock::system());
        let mut rule = Rule::new("s3:UploadPart", slow_down()).next(2);
        rule.skip = 1;
        faults.add(rule).unwrap();
        let fired: Vec<_> = (0..5).map(|_| faults.strike("s3:UploadPart", "k").is_some()).collect();
        assert_eq!(fired, [false, true, true, false, false]);
        assert!(faults.plan().rules.is_empty());
    }

    #[test]
    fn operations_match_by_full_name_bare_name_and_service() {
        let rule = |operation: &str| Rule::new(operation, Effect::DropAfter);
        assert!(rule("s3:*").matches("s3:PutObject", ""));
        assert!(rule("*").matches("sts:GetCallerIdentity", ""));
        assert!(rule("GetId").matches("cognito-identity:GetId", ""));
        assert!(!rule("Get").matches("cognito-identity:GetId", ""));
        let mut keyed = rule("s3:PutObject");
        keyed.key_contains = Some("/free/".into());
        assert!(keyed.matches("s3:PutObject", "users/a/free/x"));
        assert!(!keyed.matches("s3:PutObject", "users/a/premium/x"));
    }

    #[test]
    fn chances_repeat_with_their_seed() {
        let run = |seed| {
            let faults = Faults::new(&Clock::system());
            let mut rule = Rule::new("*", Effect::DropBefore);
            rule.probability = 0.5;
            faults.replace(Plan { rules: vec![rule], seed, ..Plan::default() }).unwrap();
            (0..64).map(|_| faults.strike("s3:GetObject", "").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let fired = run(7).into_iter().filter(|fired| *fired).count();
        assert!((10..54).contains(&fired), "{fired}");
    }

    #[test]
    fn a_skew_moves_the_clock_and_clearing_moves_it_back() {
        let clock = Clock::manual(from_unix_ms(1_700_000_000_000));
        let faults = Faults::new(&clock);
        faults.set_clock_skew_ms(-86_400_000);
        faults.set_clock_skew_ms(3_600_000);
        assert_eq!(unix_ms(clock.wall()), 1_700_003_600_000);
        faults.clear();
        assert_eq!(unix_ms(clock.wall()), 1_700_000_000_000);
    }

    #[test]
    fn plans_that_cannot_be_are_refused_and_others_read_from_json() {
        let faults = Faults::new(&Clock::system());
        let mut rule = Rule::new("*", Effect::Delay);
        rule.probability = 1.5;
        assert!(matches!(faults.add(rule), Err(FaultError::Probability { .. })));
        let plan: Plan = serde_json::from_str(
            r#"{"rules":[{"operation":"s3:UploadPart","next":3,"latency_ms":5,
                "effect":{"kind":"error","status":503,"code":"SlowDown"}}]}"#,
        )
        .unwrap();
        assert_eq!(plan.rules[0].probability, 1.0);
        faults.replace(plan).unwrap();
        assert_eq!(faults.strike("s3:UploadPart", "").unwrap().effect, slow_down());
        assert!(serde_json::from_str::<Plan>(r#"{"rulez":[]}"#).is_err());
    }
}
