//! A user's second factors: which are turned on, which goes first, and the authenticator app. Source: "Adding MFA to a
//! user pool" in Cognito's developer guide, and what its API answers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::{MfaMode, MfaSeed};
use crate::local_cloud::user_pool::directory::{Attempts, User};
use crate::local_cloud::user_pool::request::invalid_parameter;
use crate::local_cloud::user_pool::totp::Secret;

/// A second proof besides the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Factor {
    /// A code in a text message.
    Sms,
    /// A code of an authenticator app.
    SoftwareToken,
    /// A code in a mail.
    Email,
}

impl Factor {
    /// AWS's word for it, which is also the challenge's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sms => "SMS_MFA",
            Self::SoftwareToken => "SOFTWARE_TOKEN_MFA",
            Self::Email => "EMAIL_OTP",
        }
    }

    /// Whether the pool offers it.
    pub fn is_offered(self, mfa: MfaSeed) -> bool {
        match self {
            Self::Sms => mfa.sms,
            Self::SoftwareToken => mfa.software_token,
            Self::Email => mfa.email,
        }
    }
}

/// What one user has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Factors {
    enabled: BTreeSet<Factor>,
    preferred: Option<Factor>,
    token: Option<SoftwareToken>,
    /// Shown, but no code of it was seen yet.
    unverified: Option<Secret>,
    /// Wrong codes in a row.
    pub attempts: Attempts,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SoftwareToken {
    secret: Secret,
    name: Option<String>,
    /// The step of the latest code that was taken: it is good once.
    latest_step: u64,
}

/// What a request asks for one factor.
#[derive(Debug, Clone, Copy)]
pub struct Preference {
    pub factor: Factor,
    pub is_enabled: bool,
    pub is_preferred: bool,
}

impl Factors {
    /// A secret for an app; the app in use stays so until a code of the new one is seen.
    pub fn associate(&mut self) -> String {
        let secret = Secret::generate();
        let shown = secret.base32();
        self.unverified = Some(secret);
        shown
    }

    /// Takes the associated app into use, if this is a code of it.
    pub fn verify(&mut self, code: &str, now_s: u64, name: Option<&str>) -> Result<(), AwsError> {
        let secret = self.unverified.clone().ok_or_else(no_token)?;
        self.adopt(secret, code, now_s, name)?;
        self.unverified = None;
        Ok(())
    }

    /// The same for a secret that a sign-in under way keeps.
    pub fn adopt(&mut self, secret: Secret, code: &str, now_s: u64, name: Option<&str>) -> Result<(), AwsError> {
        let latest_step = secret.step_of(code, now_s).ok_or_else(|| {
            let message = "Code mismatch and fail enable Software Token MFA";
            AwsError::new("EnableSoftwareTokenMFAException", message)
        })?;
        self.token = Some(SoftwareToken { secret, name: name.map(str::to_owned), latest_step });
        Ok(())
    }

    /// Turns the app on, as setting it up during a sign-in does.
    pub fn enable_token(&mut self) {
        self.enabled.insert(Factor::SoftwareToken);
    }

    /// Lets a code of the app pass, once.
    pub fn check_token(&mut self, code: &str, now_s: u64) -> Result<(), AwsError> {
        let token = self.token.as_mut().ok_or_else(no_token)?;
        let mismatch = || AwsError::new("CodeMismatchException", "Invalid code received for user");
        let step = token.secret.step_of(code, now_s).ok_or_else(mismatch)?;
        if step <= token.latest_step {
            return Err(AwsError::new("ExpiredCodeException", "Your software token has already been used once."));
        }
        token.latest_step = step;
        Ok(())
    }

    /// The name that the user gave the app.
    pub fn token_name(&self) -> Option<&str> {
        self.token.as_ref().and_then(|token| token.name.as_deref())
    }

    /// The names of the factors that are on.
    pub fn enabled(&self) -> Vec<&'static str> {
        self.enabled.iter().map(|factor| factor.name()).collect()
    }

    /// The name of the one that goes first.
    pub fn preferred(&self) -> Option<&'static str> {
        self.preferred.map(Factor::name)
    }
}

impl User {
    /// The factors that a sign-in may ask for now, and the preferred one among them.
    pub fn usable_factors(&self, mfa: MfaSeed) -> (Vec<Factor>, Option<Factor>) {
        let is_usable = |factor: &Factor| match factor {
            // Who has set up an app goes on with it, even where the pool offers apps no more.
            Factor::SoftwareToken => {
                self.has(*factor) && (mfa.mode == MfaMode::On || self.factors.enabled.contains(factor))
            }
            // Where a second factor is a must, an address or a number is enough to get one.
            Factor::Sms | Factor::Email => {
                let is_on = mfa.mode == MfaMode::On || self.factors.enabled.contains(factor);
                is_on && factor.is_offered(mfa) && self.has(*factor)
            }
        };
        let usable: Vec<Factor> = match mfa.mode {
            MfaMode::Off => Vec::new(),
            MfaMode::Optional | MfaMode::On => {
                [Factor::Sms, Factor::SoftwareToken, Factor::Email].into_iter().filter(is_usable).collect()
            }
        };
        let preferred = self.factors.preferred.filter(|preferred| usable.contains(preferred));
        (usable, preferred)
    }

    /// Turns factors on and off.
    pub fn prefer(&mut self, mfa: MfaSeed, wanted: &[Preference]) -> Result<(), AwsError> {
        if wanted.iter().filter(|preference| preference.is_preferred).count() > 1 {
            return Err(invalid_parameter("Only one MFA factor can be the preferred one."));
        }
        for preference in wanted {
            let (factor, name) = (preference.factor, preference.factor.name());
            if preference.is_preferred && !preference.is_enabled {
                return Err(invalid_parameter(format!("{name} must be enabled to be the preferred MFA factor.")));
            }
            if preference.is_enabled && !self.has(factor) {
                return Err(invalid_parameter(format!("User does not have delivery config set to turn on {name}")));
            }
            if preference.is_enabled && !factor.is_offered(mfa) {
                return Err(invalid_parameter(format!("{name} is not enabled for the user pool.")));
            }
        }
        for preference in wanted {
            if !preference.is_enabled {
                self.factors.enabled.remove(&preference.factor);
            } else {
                self.factors.enabled.insert(preference.factor);
            }
            if preference.is_preferred {
                self.factors.preferred = Some(preference.factor);
            } else if self.factors.preferred == Some(preference.factor) {
                self.factors.preferred = None;
            }
        }
        Ok(())
    }

    /// Whether a code could reach the user, or be made by them.
    fn has(&self, factor: Factor) -> bool {
        match factor {
            Factor::Sms => self.phone().is_some(),
            Factor::SoftwareToken => self.factors.token.is_some(),
            Factor::Email => self.email_is_verified() && self.email().is_some(),
        }
    }
}

fn no_token() -> AwsError {
    AwsError::new("SoftwareTokenMFANotFoundException", "Software Token MFA does not exist for the user.")
}
