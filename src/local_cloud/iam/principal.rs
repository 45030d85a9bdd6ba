//! The `Principal` and `NotPrincipal` elements of trust and resource policies.
//!
//! Owns who is meant by them. Promises that no wildcard but a lone `*` is taken for one, as in AWS.

use serde_json::Value;

use super::RequestPrincipal;
use super::policy::{PolicyError, one_or_many};

/// What a `Principal` element lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Principals(Vec<Listed>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Listed {
    /// `"*"`: everyone, signed or not.
    Everyone,
    /// `{"AWS": "*"}`: every user and role of every account, and whoever does not sign.
    EveryAws,
    /// The whole account, by its id or by its root's ARN: `(account id)`.
    Account(String),
    /// A user, a role (and its sessions) or a session, by ARN or by unique id.
    Aws(String),
    /// An identity provider.
    Federated(String),
    /// An AWS service.
    Service(String),
    /// A canonical user: nobody in the local cloud signs as one.
    CanonicalUser,
}

impl Principals {
    pub(super) fn parse(element: &Value, place: &str) -> Result<Self, PolicyError> {
        if let Value::String(text) = element {
            return match text.as_str() {
                "*" => Ok(Self(vec![Listed::Everyone])),
                _ => Err(PolicyError::BadValue {
                    place: place.to_owned(),
                    value: text.clone(),
                    reason: "it has to be \"*\" or an object such as {\"AWS\": \"…\"}".into(),
                }),
            };
        }
        let wrong = || PolicyError::WrongShape { place: place.to_owned(), expected: "\"*\" or an object" };
        let mut listed = Vec::new();
        for (kind, values) in element.as_object().ok_or_else(wrong)? {
            let place = format!("{place}.{kind}");
            for value in one_or_many(values, &place)? {
                let Value::String(text) = value else {
                    return Err(PolicyError::WrongShape { place, expected: "a string or a list of strings" });
                };
                listed.push(Listed::parse(kind, text, &place)?);
            }
        }
        if listed.is_empty() {
            return Err(PolicyError::BadValue {
                place: place.to_owned(),
                value: element.to_string(),
                reason: "it names nobody".into(),
            });
        }
        Ok(Self(listed))
    }

    /// True where an allowing or denying statement speaks about the caller. An account stands for all of its members in
    /// a deny; in an allow it only delegates to the members' own policies, so by itself it means nobody but its root.
    pub(super) fn name(&self, caller: RequestPrincipal<'_>, denies: bool) -> bool {
        self.0.iter().any(|listed| match listed {
            Listed::Everyone => true,
            Listed::EveryAws => matches!(caller, RequestPrincipal::Anonymous | RequestPrincipal::Aws { .. }),
            Listed::Account(account) => match caller {
                RequestPrincipal::Aws { arn, .. } => {
                    account_of(arn) == Some(account) && (denies || arn.ends_with(":root"))
                }
                _ => false,
            },
            Listed::Aws(wanted) => match caller {
                RequestPrincipal::Aws { arn, role_arn } => wanted == arn || role_arn == Some(wanted.as_str()),
                _ => false,
            },
            Listed::Federated(wanted) => match caller {
                RequestPrincipal::Federated(provider) => wanted == "*" || wanted == provider,
                _ => false,
            },
            Listed::Service(wanted) => matches!(caller, RequestPrincipal::Service(service) if wanted == service),
            Listed::CanonicalUser => false,
        })
    }

    /// True where a `NotPrincipal` that lists these leaves the caller out. AWS judges an account, then a role, then its
    /// session, so every one of the caller's names has to be listed.
    pub(super) fn exempt(&self, caller: RequestPrincipal<'_>) -> bool {
        let RequestPrincipal::Aws { arn, role_arn } = caller else { return self.name(caller, false) };
        let lists = |name: &str| self.0.iter().any(|l| matches!(l, Listed::Aws(listed) if listed == name));
        let account = self.0.iter().any(|l| matches!(l, Listed::Account(id) if account_of(arn) == Some(id.as_str())));
        let everyone = self.0.iter().any(|l| matches!(l, Listed::Everyone | Listed::EveryAws));
        let member = arn.ends_with(":root") || (lists(arn) && role_arn.is_none_or(lists));
        everyone || (account && member)
    }
}

impl Listed {
    fn parse(kind: &str, text: &str, place: &str) -> Result<Self, PolicyError> {
        let bad = |reason: &str| PolicyError::BadValue {
            place: place.to_owned(),
            value: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text != "*" && text.contains(['*', '?']) {
            return Err(bad("a principal takes no wildcard but a lone \"*\"; use a condition on aws:PrincipalArn"));
        }
        match kind {
            "AWS" if text == "*" => Ok(Self::EveryAws),
            "AWS" if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self::Account(text.to_owned())),
            "AWS" if text.starts_with("arn:") => match (account_of(text), text.ends_with(":root")) {
                (Some(account), true) => Ok(Self::Account(account.to_owned())),
                (Some(_), false) => Ok(Self::Aws(text.to_owned())),
                (None, _) => Err(bad("it is not an ARN of a user, a role, a session or an account")),
            },
            "AWS" if text.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(Self::Aws(text.to_owned())),
            "AWS" => Err(bad("it is neither an account, nor an ARN, nor a unique id")),
            "Federated" => Ok(Self::Federated(text.to_owned())),
            "Service" if text == "*" => Err(bad("a service has to be named")),
            "Service" => Ok(Self::Service(text.to_owned())),
            "CanonicalUser" => Ok(Self::CanonicalUser),
            _ => Err(PolicyError::UnknownElement {
                place: place.to_owned(),
                element: kind.to_owned(),
                known: "AWS, Federated, Service, CanonicalUser",
            }),
        }
    }
}

/// The account in `arn:PARTITION:iam|sts::ACCOUNT:…`.
fn account_of(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':');
    let (scheme, _partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (_region, account, name) = (parts.next()?, parts.next()?, parts.next()?);
    (scheme == "arn" && matches!(service, "iam" | "sts") && !account.is_empty() && !name.is_empty()).then_some(account)
}
