//! Roles, and what IAM says of them: who may assume one and what its sessions may do.

use crate::local_cloud::error::AwsError;
use crate::local_cloud::iam::{Context, Decision, Policy, Request, RequestPrincipal, evaluate};
use crate::local_cloud::seed::RoleSeed;
use crate::local_cloud::site::StartError;
use crate::local_cloud::sts::{Auth, Principal, Sts};

/// A role, its policies read.
#[derive(Debug, Clone)]
pub struct Role {
    /// What the template says of it.
    pub seed: RoleSeed,
    trust: Policy,
    permissions: Vec<Policy>,
}

impl Role {
    pub(super) fn new(seed: &RoleSeed) -> Result<Self, StartError> {
        let unreadable =
            |error: &dyn std::fmt::Display| StartError::Policy { role: seed.arn.clone(), reason: error.to_string() };
        let trust = Policy::parse_trust(&seed.trust_policy).map_err(|error| unreadable(&error))?;
        let permissions = seed.policies.iter().map(Policy::parse).collect::<Result<_, _>>();
        Ok(Self { seed: seed.clone(), trust, permissions: permissions.map_err(|error| unreadable(&error))? })
    }

    fn trusts(&self, action: &str, principal: RequestPrincipal<'_>, context: &Context) -> bool {
        let request = Request { principal, action, resource: &self.seed.arn, context };
        evaluate([&self.trust], &request).is_allowed()
    }
}

impl Principal {
    /// The condition keys of a request of this session: the session's own and those that AWS adds to every request.
    pub fn request_context(&self) -> Context {
        let mut context = self.context.clone();
        context.insert("aws:PrincipalArn".into(), vec![self.role_arn.clone().unwrap_or_else(|| self.arn.clone())]);
        context.insert("aws:PrincipalType".into(), vec!["AssumedRole".into()]);
        if let Some(account) = self.arn.split(':').nth(4) {
            context.insert("aws:PrincipalAccount".into(), vec![account.to_owned()]);
        }
        context
    }

    /// The principal as resource and trust policies look at it.
    pub fn for_iam(&self) -> RequestPrincipal<'_> {
        RequestPrincipal::Aws { arn: &self.arn, role_arn: self.role_arn.as_deref() }
    }
}

impl Sts {
    /// Whether the role's trust policy lets a web identity of `provider` assume it, given the token's condition keys.
    pub fn trusts_web_identity(&self, role_arn: &str, provider: &str, context: &Context) -> bool {
        let principal = RequestPrincipal::Federated(provider);
        self.role(role_arn).is_some_and(|role| role.trusts("sts:AssumeRoleWithWebIdentity", principal, context))
    }

    /// Whether the role's trust policy lets whoever signed assume it.
    pub(super) fn trusts_signer(&self, role_arn: &str, auth: &Auth) -> bool {
        let root = format!("arn:aws:iam::{}:root", self.0.site.account_id);
        let principal = match auth {
            Auth::Anonymous => RequestPrincipal::Anonymous,
            Auth::Administrator => RequestPrincipal::Aws { arn: &root, role_arn: None },
            Auth::Role(principal) => principal.for_iam(),
        };
        let context = match auth {
            Auth::Role(principal) => principal.request_context(),
            _ => Context::new(),
        };
        self.role(role_arn).is_some_and(|role| role.trusts("sts:AssumeRole", principal, &context))
    }

    /// What the signer's own policies say of `action` on `resource`; a resource's policy is the caller's to add
    /// (`Decision::or`). `request_keys` are condition keys that the request supplies; they never replace the session's.
    pub fn decide(&self, auth: &Auth, action: &str, resource: &str, request_keys: &Context) -> Decision {
        let principal = match auth {
            Auth::Anonymous => return Decision::ImplicitDeny,
            Auth::Administrator => return Decision::Allow,
            Auth::Role(principal) => principal,
        };
        let Some(role) = principal.role_arn.as_deref().and_then(|arn| self.role(arn)) else {
            return Decision::ImplicitDeny;
        };
        let mut context = request_keys.clone();
        context.extend(principal.request_context());
        let request = Request { principal: principal.for_iam(), action, resource, context: &context };
        evaluate(&role.permissions, &request)
    }

    /// Lets pass who may do `action` on `resource` of a JSON service; its refusal otherwise.
    pub fn authorize(&self, auth: &Auth, action: &str, resource: &str) -> Result<(), AwsError> {
        let principal = match auth {
            Auth::Administrator => return Ok(()),
            Auth::Anonymous => {
                let message = "Missing Authentication Token";
                return Err(AwsError::new("MissingAuthenticationTokenException", message));
            }
            Auth::Role(principal) => principal,
        };
        let reason = match self.decide(auth, action, resource, &Context::new()) {
            Decision::Allow => return Ok(()),
            Decision::ExplicitDeny => "with an explicit deny in an identity-based policy".to_owned(),
            Decision::ImplicitDeny => format!("because no identity-based policy allows the {action} action"),
        };
        let arn = &principal.arn;
        let message = format!("User: {arn} is not authorized to perform: {action} on resource: {resource} {reason}");
        Err(AwsError::new("AccessDeniedException", message))
    }
}
