#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

const ANN: &str = "ann@example.com";

fn google(email: &str, is_verified: bool) -> ExternalSignUp {
    ExternalSignUp { provider: "Google".into(), user_id: "1".into(), email: Some(email.into()), is_verified }
}

fn native(username: &str, status: NativeStatus, is_verified: bool) -> NativeUser {
    NativeUser { username: username.into(), status, is_verified, is_enabled: true }
}

/// A pool in memory that keeps what was done to it.
#[derive(Default)]
struct Pool {
    natives: Mutex<Vec<NativeUser>>,
    done: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Directory for Pool {
    type Error = String;

    async fn natives_with(&self, _email: &str) -> Result<Vec<NativeUser>, String> {
        Ok(self.natives.lock().unwrap().clone())
    }

    async fn create(&self, email: &str) -> Result<String, String> {
        self.done.lock().unwrap().push(format!("create {email}"));
        self.natives.lock().unwrap().push(native("new", NativeStatus::InUse, true));
        Ok("new".into())
    }

    async fn delete_unconfirmed(&self, username: &str) -> Result<(), String> {
        self.done.lock().unwrap().push(format!("delete {username}"));
        self.natives.lock().unwrap().retain(|native| native.username != username);
        Ok(())
    }

    async fn link(&self, username: &str, provider: &str, user_id: &str) -> Result<(), String> {
        self.done.lock().unwrap().push(format!("link {username} {provider} {user_id}"));
        Ok(())
    }
}

async fn ran(natives: Vec<NativeUser>, sign_up: &ExternalSignUp) -> (Result<Outcome, String>, Vec<String>) {
    let pool = Pool { natives: Mutex::new(natives), done: Mutex::default() };
    let outcome = run(&pool, &Policy::default(), sign_up).await.map_err(|error| error.to_string());
    (outcome, pool.done.into_inner().unwrap())
}

#[tokio::test]
async fn a_verified_address_is_linked_to_who_has_proven_it_or_to_a_new_native_user() {
    let (outcome, done) = ran(vec![native("n", NativeStatus::InUse, true)], &google("Ann@Example.com", true)).await;
    assert_eq!((outcome, done), (Ok(Outcome::Linked("n".into())), vec!["link n Google 1".to_owned()]));
    let (outcome, done) = ran(Vec::new(), &google("Ann@Example.com", true)).await;
    assert_eq!(outcome, Ok(Outcome::Linked("new".into())));
    assert_eq!(done, ["create ann@example.com", "link new Google 1"]);
}

#[test]
fn only_ascii_capitals_are_the_same_letter() {
    let address_of = |email: &str| address(&google(email, true), &Policy::default()).unwrap();
    assert_eq!(address_of("Ann.Mike+photos@Example.com"), "ann.mike+photos@example.com");
    for look_alike in ["mi\u{212a}e@example.com", "\u{c9}va@example.com", "mike@exa\u{217f}ple.com"] {
        assert_eq!(address_of(look_alike), look_alike);
    }
}

#[tokio::test]
async fn an_account_that_waits_for_its_code_is_replaced_and_never_linked() {
    let (outcome, done) = ran(vec![native("thief", NativeStatus::Unconfirmed, false)], &google(ANN, true)).await;
    assert_eq!(outcome, Ok(Outcome::Linked("new".into())));
    assert_eq!(done, ["delete thief", "create ann@example.com", "link new Google 1"]);
}

#[tokio::test]
async fn whoever_cannot_be_joined_safely_stays_apart_and_nothing_is_touched() {
    let in_use = |verified| native("n", NativeStatus::InUse, verified);
    let corp = ExternalSignUp { provider: "Corp".into(), ..google(ANN, true) };
    let nobody = ExternalSignUp { email: None, ..google(ANN, true) };
    for (natives, sign_up, why) in [
        (vec![in_use(true)], google(ANN, false), Separate::NotVerified),
        (vec![in_use(true)], nobody, Separate::NoAddress),
        (vec![in_use(true)], google("@", true), Separate::NoAddress),
        (vec![in_use(true)], corp, Separate::ProviderNotTrusted),
        (vec![in_use(false)], google(ANN, true), Separate::NativeNotVerified),
        (
            vec![in_use(false), native("u", NativeStatus::Unconfirmed, true)],
            google(ANN, true),
            Separate::NativeNotVerified,
        ),
        (vec![in_use(true), in_use(true)], google(ANN, true), Separate::Ambiguous),
        (Vec::new(), google("x7@PrivateRelay.appleid.com", true), Separate::PrivateRelay),
    ] {
        assert_eq!(ran(natives, &sign_up).await, (Ok(Outcome::Separate(why)), Vec::new()), "{sign_up:?}");
    }
    // A look-alike of the relay's domain is an address like any other.
    let (outcome, _) = ran(Vec::new(), &google("x@evil-privaterelay.appleid.com", true)).await;
    assert_eq!(outcome, Ok(Outcome::Linked("new".into())));
}

#[tokio::test]
async fn a_closed_account_is_not_opened_by_a_provider() {
    let closed = NativeUser { is_enabled: false, ..native("n", NativeStatus::InUse, true) };
    let (outcome, done) = ran(vec![closed], &google(ANN, true)).await;
    assert_eq!((outcome, done), (Err("the account with this address is disabled".to_owned()), Vec::new()));
}

#[test]
fn an_event_names_the_provider_in_any_case_and_the_longest_name_is_meant() {
    let providers = ["Google", "Corp", "Corp_Old"];
    let of = |name: &str| {
        let attribute = |attribute: &str| match attribute {
            "email" => Some(ANN),
            "email_verified" => Some("true"),
            _ => None,
        };
        ExternalSignUp::of_event(name, attribute, providers).map(|sign_up| (sign_up.provider, sign_up.user_id))
    };
    let named = |provider: &str, id: &str| Some((provider.to_owned(), id.to_owned()));
    assert_eq!(of("google_1029"), named("Google", "1029"));
    assert_eq!(of("Corp_Old_7"), named("Corp_Old", "7"));
    assert_eq!(of("corp_7_8"), named("Corp", "7_8"));
    assert_eq!([of("Google_"), of("Google"), of("Facebook_1"), of("é")], [None, None, None, None]);
    let silent = ExternalSignUp::of_event("Google_1", |_| None, providers).unwrap();
    assert!(silent.email.is_none() && !silent.is_verified);
}

proptest! {
    /// Whatever accounts there are: who is linked has proven the address, and only unconfirmed ones are deleted.
    #[test]
    fn nobody_is_linked_without_proof(
        natives in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..5)
    ) {
        let natives: Vec<_> = natives.into_iter().enumerate().map(|(at, (unconfirmed, is_verified, is_enabled))| {
            let status = if unconfirmed { NativeStatus::Unconfirmed } else { NativeStatus::InUse };
            NativeUser { username: at.to_string(), status, is_verified, is_enabled }
        }).collect();
        let named = |name: &str| natives.iter().find(|native| native.username == name).unwrap();
        match decide(ANN.to_owned(), &natives) {
            Decision::Link(name) => {
                let native = named(&name);
                prop_assert!(native.status == NativeStatus::InUse && native.is_verified && native.is_enabled);
            }
            Decision::Create { instead_of, .. } => {
                prop_assert_eq!(instead_of.len(), natives.len());
                prop_assert!(instead_of.iter().all(|name| named(name).status == NativeStatus::Unconfirmed));
            }
            Decision::Refuse => prop_assert!(natives.iter().any(|native| !native.is_enabled)),
            Decision::Separate(_) => prop_assert!(natives.iter().any(|native| native.status == NativeStatus::InUse)),
        }
    }
}
