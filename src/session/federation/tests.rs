#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::clock::from_unix_ms;
use crate::session::SignInClaims;

const CALLBACK: &str = "http://127.0.0.1:8484/callback";
const LIFETIME: Duration = Duration::from_secs(600);
const ANA: u32 = 1_000;
const BEN: u32 = 1_001;

fn attempts() -> Attempts {
    Attempts::new(AttemptLimits { total: 3, per_uid: 2, lifetime: LIFETIME })
}

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_boot(Duration::from_secs(1_000 + seconds))
}

fn begin(attempts: &Attempts, uid: u32, now: u64) -> Result<String, FederationError> {
    let begin = Begin { uid, identity: "app".into(), redirect_uri: CALLBACK.into(), listens: true, is_fresh: true };
    let begun = attempts.begin(begin, at(now), |begun| Ok(format!("page?state={}", begun.state)));
    begun.map(|(state, _)| state)
}

fn returned(state: &str, rest: &str) -> Returned {
    Returned::read(&format!("{CALLBACK}?state={state}&{rest}")).unwrap()
}

fn taken(attempts: &Attempts, uid: u32, state: &str, now: u64) -> Result<(), FederationError> {
    attempts.take_returned(uid, &returned(state, "code=c"), at(now)).map(drop)
}

#[test]
fn an_attempt_is_its_uids_and_good_once_and_in_time() {
    let attempts = attempts();
    let state = begin(&attempts, ANA, 0).unwrap();
    assert_eq!(taken(&attempts, BEN, &state, 1), Err(FederationError::StateUnknown));
    assert_eq!(taken(&attempts, ANA, "made-up", 1), Err(FederationError::StateUnknown));
    let elsewhere = Returned::read(&format!("http://127.0.0.1:9999/callback?state={state}&code=c")).unwrap();
    let mismatch = attempts.take_returned(ANA, &elsewhere, at(1)).unwrap_err();
    assert_eq!(mismatch, FederationError::RedirectMismatch(CALLBACK.into()));
    // None of these has spent it.
    assert_eq!(taken(&attempts, ANA, &state, 599), Ok(()));
    assert_eq!(taken(&attempts, ANA, &state, 599), Err(FederationError::StateUsed));
    let late = begin(&attempts, ANA, 0).unwrap();
    assert_eq!(taken(&attempts, ANA, &late, 600), Err(FederationError::StateExpired));
    assert!(!format!("{attempts:?}").contains(&late));
}

#[test]
fn the_oldest_of_a_uid_makes_way_and_all_together_are_bounded() {
    let attempts = attempts();
    let first = begin(&attempts, ANA, 0).unwrap();
    let second = begin(&attempts, ANA, 1).unwrap();
    let third = begin(&attempts, ANA, 2).unwrap();
    assert_eq!(taken(&attempts, ANA, &first, 3), Err(FederationError::StateReplaced));
    begin(&attempts, BEN, 3).unwrap();
    assert_eq!(begin(&attempts, 7, 3), Err(FederationError::TooMany(3)));
    assert_eq!([taken(&attempts, ANA, &second, 4), taken(&attempts, ANA, &third, 4)], [Ok(()), Ok(())]);
    begin(&attempts, 7, 5).unwrap();
}

#[test]
fn what_is_over_is_forgotten_in_time_and_never_grows() {
    let attempts = attempts();
    let states: Vec<_> = (0..50).map(|now| begin(&attempts, ANA, now).unwrap()).collect();
    assert!(attempts.lock().len() <= 3 + 3, "{}", attempts.lock().len());
    assert_eq!(taken(&attempts, ANA, &states[0], 50), Err(FederationError::StateUnknown));
    begin(&attempts, BEN, 2_000).unwrap();
    assert_eq!(attempts.lock().len(), 1);
}

#[test]
fn the_page_may_be_opened_once_more_after_a_link() {
    let attempts = attempts();
    let state = begin(&attempts, ANA, 0).unwrap();
    let linked = "error=invalid_request&error_description=Already+found+an+entry+for+username+google_1";
    let Arrival::Again(address) = attempts.arrive(&returned(&state, linked), at(1)) else { panic!("not again") };
    assert_eq!(address, format!("page?state={state}"));
    assert!(matches!(attempts.arrive(&returned(&state, linked), at(2)), Arrival::Taken(_)));
    let refused = attempts.take_arrived(ANA, &state, at(3)).unwrap_err();
    assert!(matches!(refused, FederationError::Refused { .. }));
    let caught = begin(&attempts, ANA, 4).unwrap();
    let again = attempts.take_returned(ANA, &returned(&caught, linked), at(5)).unwrap_err();
    assert_eq!(again, FederationError::LinkedNow);
    assert_eq!(taken(&attempts, ANA, &caught, 6), Ok(()));
}

#[test]
fn whoever_waits_hears_where_it_stands() {
    let attempts = attempts();
    let state = begin(&attempts, ANA, 0).unwrap();
    assert!(attempts.take_arrived(ANA, &state, at(1)).unwrap().is_none());
    let (progress, left) = attempts.follow(ANA, &state, at(100)).unwrap();
    assert_eq!((*progress.borrow(), left), (Progress::Away, Duration::from_secs(500)));
    assert_eq!(attempts.follow(BEN, &state, at(1)).unwrap_err(), FederationError::StateUnknown);
    assert!(attempts.expected_until(|uri| uri == CALLBACK, at(1)).is_some());
    assert!(matches!(attempts.arrive(&returned(&state, "code=c"), at(101)), Arrival::Taken(_)));
    assert!(matches!(attempts.arrive(&returned(&state, "code=d"), at(102)), Arrival::Nobody));
    assert_eq!(*progress.borrow(), Progress::Back);
    let (_, code) = attempts.take_arrived(ANA, &state, at(103)).unwrap().unwrap();
    assert_eq!(code.expose_secret(), "c");
    // The link was down: the same code again.
    attempts.put_back(&state, code);
    assert!(attempts.take_arrived(ANA, &state, at(104)).unwrap().is_some());
    attempts.finished(&state, true);
    assert_eq!(*progress.borrow(), Progress::SignedIn);
    assert!(attempts.expected_until(|_| true, at(105)).is_none());
    assert_eq!(attempts.follow(ANA, &state, at(105)).unwrap_err(), FederationError::StateUsed);
}

fn claims(nonce: Option<&str>, age_s: Option<i64>) -> IdClaims {
    let issued = from_unix_ms(1_790_000_000_000);
    IdClaims {
        issuer: "i".into(),
        subject: "s".into(),
        audience: "a".into(),
        username: "u".into(),
        groups: Vec::new(),
        expire_time: issued,
        sign_in: Box::new(SignInClaims {
            issue_time: Some(issued),
            auth_time: age_s.map(|age_s| from_unix_ms(1_790_000_000_000 - age_s * 1_000)),
            email: None,
            nonce: nonce.map(str::to_owned),
        }),
    }
}

#[test]
fn a_token_counts_for_the_attempt_that_it_was_asked_for() {
    let finish = |is_fresh| Finish {
        identity: "app".into(),
        redirect_uri: CALLBACK.into(),
        verifier: SecretString::default(),
        nonce: "n".into(),
        is_fresh,
        began: at(0),
    };
    let check = |is_fresh, nonce, age_s| finish(is_fresh).check(&claims(nonce, age_s), at(30));
    for other in [None, Some(""), Some("m"), Some("nn")] {
        assert_eq!(check(false, other, Some(0)), Err(FederationError::NonceMismatch));
    }
    // Whoever proved it before the attempt was not asked; 60 seconds are the clocks'.
    assert_eq!(check(true, Some("n"), Some(90)), Ok(()));
    assert_eq!(check(true, Some("n"), Some(91)), Err(FederationError::NotFresh));
    assert_eq!(check(false, Some("n"), Some(3_000)), Ok(()));
    assert_eq!([check(true, Some("n"), None), check(true, Some("n"), Some(-500))], [Ok(()), Ok(())]);
}

#[test]
fn the_challenge_is_the_verifiers_and_all_secrets_differ() {
    let attempts = attempts();
    let seen = std::cell::RefCell::new(Vec::new());
    let begin =
        Begin { uid: ANA, identity: "app".into(), redirect_uri: CALLBACK.into(), listens: false, is_fresh: true };
    let (state, _) = attempts
        .begin(begin, at(0), |begun| {
            seen.borrow_mut().push(begun.clone());
            Ok(String::new())
        })
        .unwrap();
    let (finish, _) = attempts.take_returned(ANA, &returned(&state, "code=c"), at(1)).unwrap();
    let begun = seen.into_inner().pop().unwrap();
    let expected = URL_SAFE_NO_PAD.encode(Sha256::digest(finish.verifier.expose_secret().as_bytes()));
    assert_eq!(begun.code_challenge, expected);
    assert!(begun.state != begun.nonce && begun.nonce != finish.verifier.expose_secret());
    assert_eq!((begun.state.len(), finish.verifier.expose_secret().len()), (43, 43));
    assert!(!format!("{finish:?}").contains(finish.verifier.expose_secret()));
}

proptest! {
    /// Whatever is begun, taken and waited for: limits hold, and no attempt gives a code twice.
    #[test]
    fn attempts_are_bounded_and_single_use(steps in proptest::collection::vec((0_u8..4, 0_u32..3, 0_u64..400), 0..120)) {
        let attempts = attempts();
        let (mut now, mut known, mut spent) = (0, Vec::new(), std::collections::HashSet::new());
        for (step, uid, wait) in steps {
            now += wait;
            match step {
                0 | 1 => if let Ok(state) = begin(&attempts, uid, now) { known.push((uid, state)) },
                2 => for (owner, state) in &known {
                    let got = taken(&attempts, uid, state, now);
                    prop_assert!(got.is_err() || (*owner == uid && spent.insert(state.clone())));
                },
                _ => if let Some((_, state)) = known.first() {
                    let _ = attempts.arrive(&returned(state, "code=c"), at(now));
                },
            }
            prop_assert!(attempts.lock().len() <= 6);
        }
    }
}
