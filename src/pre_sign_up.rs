//! One person, one `sub`: what happens before somebody who comes by Google or Apple for the first time becomes a user.
//! Owns the decision ([`decide`], pure) and the step that carries it out ([`run`], over a [`Directory`]); promises that
//! both orders (password first, provider first) end in one native user; must never join two people.
//!
//! This is the body of the user pool's pre-sign-up trigger (`PreSignUp_ExternalProvider`): the local cloud runs it, and
//! a Lambda can. `AdminLinkProviderForUser` takes only a provider's user that the pool does not have yet, so it has to
//! happen here; the destination is always a native user, because only that one can also have a password.
//!
//! Who may be joined by an address? Only somebody of whom two parties say that it is theirs:
//!
//! - The provider must be one that proves addresses ([`Policy::trusted_providers`]) and say that this one is verified.
//!   A company's own OpenID provider could name anybody's.
//! - The native account must have proven it, too. Whoever signs up with another person's address and waits for them to
//!   come by Google ("account pre-hijacking") has an UNCONFIRMED account with a password of their own: it is never
//!   linked. It never could sign in, so nothing hangs on it, and it is deleted to make room for the address's owner.
//!   A CONFIRMED account whose address is not verified may hold somebody's photos: it is neither linked nor touched, and
//!   the provider's user stays a user of their own.
//! - An account that an administrator has closed stays closed: its owner does not get around that by a provider.
//! - Addresses are one where they differ in ASCII capitals only. Whatever else looks the same may be two people's: Unicode
//!   makes a k of the Kelvin sign, and no mail provider does.
//! - Apple's private relay addresses say nothing about who somebody is elsewhere: always users of their own.

use std::fmt;

/// Google's and Apple's names in every user pool.
pub const PROVIDERS_THAT_VERIFY: [&str; 2] = ["Google", "SignInWithApple"];
/// The domain of the addresses that Apple makes up for people who hide theirs.
pub const PRIVATE_RELAY_DOMAIN: &str = "privaterelay.appleid.com";

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Providers whose word counts on whether an address is verified.
    pub trusted_providers: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { trusted_providers: PROVIDERS_THAT_VERIFY.map(str::to_owned).to_vec() }
    }
}

/// Somebody whom the pool does not know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalSignUp {
    /// The provider's name in the pool.
    pub provider: String,
    /// Their id there.
    pub user_id: String,
    /// The address, as the provider gave it.
    pub email: Option<String>,
    /// Whether the provider says that it is verified.
    pub is_verified: bool,
}

impl ExternalSignUp {
    /// From a trigger's event: its `userName` (`google_1029384756`, the provider in any case) and attributes.
    /// `None` where none of the pool's `providers` begins the name.
    pub fn of_event<'a>(
        user_name: &str,
        attribute: impl Fn(&str) -> Option<&'a str>,
        providers: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let rest_behind = |provider: &str| {
            let (head, rest) = user_name.split_at_checked(provider.len())?;
            let user_id = rest.strip_prefix('_').filter(|id| !id.is_empty())?;
            head.eq_ignore_ascii_case(provider).then(|| user_id.to_owned())
        };
        // Names may contain underscores: the longest that fits is meant.
        let fitting = providers.into_iter().filter_map(|provider| Some((provider, rest_behind(provider)?)));
        let (provider, user_id) = fitting.max_by_key(|(provider, _)| provider.len())?;
        Some(Self {
            provider: provider.to_owned(),
            user_id,
            email: attribute("email").map(str::to_owned).filter(|email| !email.is_empty()),
            is_verified: attribute("email_verified").is_some_and(|said| said.eq_ignore_ascii_case("true")),
        })
    }
}

/// A native user (one with a password, or who can get one) that has the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeUser {
    /// The name in the pool.
    pub username: String,
    /// Where the account stands.
    pub status: NativeStatus,
    /// `email_verified`.
    pub is_verified: bool,
    /// Not closed by an administrator.
    pub is_enabled: bool,
}

/// A native account's `UserStatus`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NativeStatus {
    /// UNCONFIRMED: nobody has proven anything, and nobody can have signed in.
    Unconfirmed,
    /// CONFIRMED, FORCE_CHANGE_PASSWORD, RESET_REQUIRED and the like: somebody may have used it.
    InUse,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// They become a user of their own.
    Separate(Separate),
    /// They are this native user.
    Link(String),
    /// They become a new native user with this address, after these accounts, which proved nothing, were deleted.
    Create {
        /// The address, in lower case.
        email: String,
        /// Names of unconfirmed accounts that hold the address.
        instead_of: Vec<String>,
    },
    /// They may not come in.
    Refuse,
}

/// Why somebody stays a user of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separate {
    /// The provider gave no address.
    NoAddress,
    /// The provider does not say that the address is verified.
    NotVerified,
    /// The provider's word on addresses does not count.
    ProviderNotTrusted,
    /// Apple made the address up.
    PrivateRelay,
    /// An account that somebody may use has the address without having proven it.
    NativeNotVerified,
    /// Several accounts have proven the address: which one would be a guess.
    Ambiguous,
}

impl fmt::Display for Separate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "the provider gave no address",
            Self::NotVerified => "the provider does not say that the address is verified",
            Self::ProviderNotTrusted => "the provider's word on addresses does not count here",
            Self::PrivateRelay => "it is a private relay address",
            Self::NativeNotVerified => "an account has the address without having proven it",
            Self::Ambiguous => "several accounts have proven the address",
        })
    }
}

/// The address that counts, in lower case, where it does.
///
/// # Errors
/// Why no address of this sign-up joins anybody.
pub fn address(sign_up: &ExternalSignUp, policy: &Policy) -> Result<String, Separate> {
    if !policy.trusted_providers.contains(&sign_up.provider) {
        return Err(Separate::ProviderNotTrusted);
    }
    let email = sign_up.email.as_deref().ok_or(Separate::NoAddress)?.to_ascii_lowercase();
    if !sign_up.is_verified {
        return Err(Separate::NotVerified);
    }
    match email.rsplit_once('@') {
        Some((_, PRIVATE_RELAY_DOMAIN)) => Err(Separate::PrivateRelay),
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() => Ok(email),
        _ => Err(Separate::NoAddress),
    }
}

/// What is to be done with somebody whose [`address`] counts; `natives` are all native users that have it.
pub fn decide(email: String, natives: &[NativeUser]) -> Decision {
    let in_use = || natives.iter().filter(|native| native.status == NativeStatus::InUse);
    if natives.iter().any(|native| !native.is_enabled) {
        return Decision::Refuse;
    }
    let mut proven = in_use().filter(|native| native.is_verified);
    match (proven.next(), proven.next()) {
        (Some(_), Some(_)) => Decision::Separate(Separate::Ambiguous),
        (Some(native), None) => Decision::Link(native.username.clone()),
        (None, _) if in_use().next().is_some() => Decision::Separate(Separate::NativeNotVerified),
        (None, _) => {
            Decision::Create { email, instead_of: natives.iter().map(|native| native.username.clone()).collect() }
        }
    }
}

/// The user pool's administration, as far as the step needs it.
#[async_trait::async_trait]
pub trait Directory: Send + Sync {
    /// What the pool's refusals are.
    type Error: Send;

    /// Every native user with this address, which is in lower case; the pool may hold it in any (`ListUsers`), but only
    /// ASCII letters have one that counts.
    ///
    /// # Errors
    /// The pool's.
    async fn natives_with(&self, email: &str) -> Result<Vec<NativeUser>, Self::Error>;

    /// Makes a native user with this address, verified, and a password that nobody knows, so that ForgotPassword works;
    /// sends nothing (`AdminCreateUser` with SUPPRESS, `AdminSetUserPassword`). Answers the name.
    ///
    /// # Errors
    /// The pool's.
    async fn create(&self, email: &str) -> Result<String, Self::Error>;

    /// Deletes a user, but only if it is unconfirmed still (`AdminDeleteUser`).
    ///
    /// # Errors
    /// The pool's; also where it was confirmed meanwhile.
    async fn delete_unconfirmed(&self, username: &str) -> Result<(), Self::Error>;

    /// `AdminLinkProviderForUser`. "SourceUser is already linked to DestinationUser" counts as done: triggers run twice.
    ///
    /// # Errors
    /// The pool's.
    async fn link(&self, username: &str, provider: &str, user_id: &str) -> Result<(), Self::Error>;
}

/// Why the step failed: the sign-in fails with it and can be tried again, because going on would make a second user of
/// one person for good.
#[derive(Debug, thiserror::Error)]
pub enum PreSignUpError<E> {
    /// An administrator has closed the account that has the address.
    #[error("the account with this address is disabled")]
    Disabled,
    /// The pool.
    #[error("{0}")]
    Directory(E),
}

/// Carries the step out. The decision is returned for the log; it names no address.
///
/// # Errors
/// [`PreSignUpError`].
pub async fn run<D: Directory>(
    directory: &D,
    policy: &Policy,
    sign_up: &ExternalSignUp,
) -> Result<Outcome, PreSignUpError<D::Error>> {
    let email = match address(sign_up, policy) {
        Ok(email) => email,
        Err(why) => return Ok(Outcome::Separate(why)),
    };
    let natives = directory.natives_with(&email).await.map_err(PreSignUpError::Directory)?;
    let username = match decide(email, &natives) {
        Decision::Separate(why) => return Ok(Outcome::Separate(why)),
        Decision::Refuse => return Err(PreSignUpError::Disabled),
        Decision::Link(username) => username,
        Decision::Create { email, instead_of } => {
            for username in instead_of {
                directory.delete_unconfirmed(&username).await.map_err(PreSignUpError::Directory)?;
            }
            directory.create(&email).await.map_err(PreSignUpError::Directory)?
        }
    };
    let linked = directory.link(&username, &sign_up.provider, &sign_up.user_id).await;
    linked.map_err(PreSignUpError::Directory)?;
    Ok(Outcome::Linked(username))
}

/// What the step has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: they become a user of their own.
    Separate(Separate),
    /// They are this native user from now on.
    Linked(String),
}

#[cfg(test)]
mod tests;
