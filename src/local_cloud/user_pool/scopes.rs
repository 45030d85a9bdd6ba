//! What a token is good for: the scopes that the hosted page was asked for, and which attributes they show. A sign-in by
//! the pool's own actions has none of them: it shows everything and may use those actions. Source: Cognito's pages on
//! the userInfo endpoint and on scopes.

use serde::{Deserialize, Serialize};

/// Lets an access token use the pool's own actions for its user.
pub const USER_ADMIN: &str = "aws.cognito.signin.user.admin";
const KNOWN: [&str; 5] = ["openid", "email", "phone", "profile", USER_ADMIN];

/// Scopes in the order in which they were asked for; empty for the pool's own actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// The scopes of a claim that our own key signed.
    pub fn of(claim: &str) -> Self {
        Self(claim.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Reads what a client asks for, where `allowed` says what it may; nothing asked for is everything allowed. None
    /// where it may not, or where attributes are asked for without `openid`, which alone gives them.
    pub fn requested(asked: &str, allowed: &[String]) -> Option<Self> {
        let may = |scope: &str| KNOWN.contains(&scope) && allowed.iter().any(|known| known == scope);
        let mut scopes = Self::of(asked);
        if scopes.0.is_empty() {
            scopes.0 = allowed.iter().filter(|scope| may(scope)).cloned().collect();
        }
        let mut seen = std::collections::BTreeSet::new();
        scopes.0.retain(|scope| seen.insert(scope.clone()));
        let needs_openid = ["email", "phone", "profile"].iter().any(|scope| scopes.has(scope));
        let fits = scopes.0.iter().all(|scope| may(scope)) && !scopes.0.is_empty();
        (fits && (scopes.has("openid") || !needs_openid)).then_some(scopes)
    }

    /// Whether this is no sign-in of the hosted page.
    pub fn is_api(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this scope is among them.
    pub fn has(&self, scope: &str) -> bool {
        self.0.iter().any(|known| known == scope)
    }

    /// The access token's `scope`.
    pub fn claim(&self) -> String {
        if self.is_api() { USER_ADMIN.to_owned() } else { self.0.join(" ") }
    }

    /// Whether an ID token goes with it.
    pub fn give_id_token(&self) -> bool {
        self.is_api() || self.has("openid")
    }

    /// Whether this attribute shows. `openid` by itself shows everything.
    pub fn show(&self, attribute: &str) -> bool {
        let narrowed = ["email", "phone", "profile"].iter().any(|scope| self.has(scope));
        if self.is_api() || !narrowed {
            return true;
        }
        match attribute {
            "email" | "email_verified" => self.has("email"),
            "phone_number" | "phone_number_verified" => self.has("phone"),
            // The service's own, which no scope hides.
            "identities" => true,
            _ => self.has("profile"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn allowed() -> Vec<String> {
        ["openid", "email", "profile", USER_ADMIN].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_client_gets_what_it_asks_for_and_may_have() {
        assert_eq!(Scopes::requested("openid  email openid", &allowed()).unwrap().claim(), "openid email");
        assert_eq!(Scopes::requested("", &allowed()).unwrap().claim(), allowed().join(" "));
        assert_eq!(Scopes::requested(USER_ADMIN, &allowed()).unwrap().claim(), USER_ADMIN);
        for refused in ["phone openid", "openid photos/write", "email", "OPENID"] {
            assert_eq!(Scopes::requested(refused, &allowed()), None, "{refused}");
        }
        assert_eq!(Scopes::requested("", &[]), None);
    }

    #[test]
    fn scopes_narrow_what_shows() {
        let email = Scopes::of("openid email");
        assert!(email.show("email_verified") && !email.show("given_name") && email.show("identities"));
        assert!(Scopes::of("openid").show("given_name") && Scopes::default().show("phone_number"));
        assert!(!Scopes::of(USER_ADMIN).give_id_token() && Scopes::default().give_id_token());
    }
}
