//! Remembered devices: each has a secret of its own, of which the pool keeps an SRP verifier as of a password. A sign-in
//! on an unknown device gives it a key; the client confirms it. Source: "Working with user devices in your user pool" in
//! Cognito's developer guide.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::site::new_uuid;
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{PageQuery, Request, invalid_parameter, seconds};
use crate::local_cloud::user_pool::srp::Verifier;

/// A device that its user confirmed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Device {
    /// `DeviceKey`.
    pub key: String,
    /// `DeviceGroupKey`: stands for the pool's name in the device's SRP.
    pub group_key: String,
    /// As the client calls it.
    pub name: Option<String>,
    pub verifier: Verifier,
    /// Else it is only known.
    pub is_remembered: bool,
    /// In milliseconds since 1970.
    pub create_ms: u64,
    /// In milliseconds since 1970.
    pub modify_ms: u64,
    /// In milliseconds since 1970.
    pub authenticate_ms: u64,
}

/// The keys of a device that a sign-in makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDevice {
    pub key: String,
    pub group_key: String,
}

/// The one that was used longest ago makes room.
const MOST_DEVICES: usize = 100;
const GROUP_KEY_LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LONGEST_NAME_CHARS: usize = 1_024;

impl NewDevice {
    /// Fresh keys.
    pub fn generate(region: &str) -> Self {
        let mut rng = rand::rng();
        let letter = |_| char::from(GROUP_KEY_LETTERS[rng.random_range(0..GROUP_KEY_LETTERS.len())]);
        let group_key = std::iter::once('-').chain((0..8).map(letter)).collect();
        Self { key: format!("{region}_{}", new_uuid()), group_key }
    }

    /// `NewDeviceMetadata`.
    pub fn metadata(&self) -> Value {
        json!({ "DeviceKey": self.key, "DeviceGroupKey": self.group_key })
    }
}

impl User {
    /// The confirmed device with this key.
    pub fn device(&self, key: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.key == key)
    }
}

impl Request {
    pub(super) fn confirm_device(&self) -> Result<Value, AwsError> {
        let (pool, user, origin_jti) = self.signed_in_user()?;
        let key = self.required("DeviceKey", "deviceKey")?;
        let config = self.field("DeviceSecretVerifierConfig");
        let bytes = |name: &str| STANDARD.decode(config[name].as_str()?).ok();
        let verifier = bytes("Salt").zip(bytes("PasswordVerifier"));
        let verifier = verifier.and_then(|(salt, verifier)| Verifier::of_device(&salt, &verifier));
        let verifier = verifier.ok_or_else(|| invalid_parameter("Invalid device secret verifier config given."))?;
        let name = self.text("DeviceName").map(|name| name.chars().take(LONGEST_NAME_CHARS).collect());
        let now_ms = self.now_ms();
        let ask_user = pool.seed.devices.ok_or_else(invalid_key)?.ask_user;
        pool.directory.update(&user.sub, |user| {
            let sign_in = user.sign_ins.iter_mut().find(|sign_in| sign_in.origin_jti == origin_jti);
            let new = sign_in.and_then(|sign_in| sign_in.new_device.take_if(|new| new.key == key));
            let NewDevice { key, group_key } = new.ok_or_else(invalid_key)?;
            if user.devices.len() >= MOST_DEVICES {
                user.devices.sort_by_key(|device| device.authenticate_ms);
                user.devices.remove(0);
            }
            user.devices.push(Device {
                key,
                group_key,
                name,
                verifier,
                is_remembered: !ask_user,
                create_ms: now_ms,
                modify_ms: now_ms,
                authenticate_ms: now_ms,
            });
            Ok(json!({ "UserConfirmationNecessary": ask_user }))
        })?
    }

    pub(super) fn update_device_status(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        self.set_device_status(pool, &user)
    }

    pub(super) fn admin_update_device_status(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminUpdateDeviceStatus")?;
        self.set_device_status(pool, &self.named_user(pool)?)
    }

    pub(super) fn get_device(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        self.show_device(pool, &user)
    }

    pub(super) fn admin_get_device(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminGetDevice")?;
        self.show_device(pool, &self.named_user(pool)?)
    }

    pub(super) fn list_devices(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        self.page_of_devices(pool, &user)
    }

    pub(super) fn admin_list_devices(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminListDevices")?;
        self.page_of_devices(pool, &self.named_user(pool)?)
    }

    pub(super) fn forget_device(&self) -> Result<Value, AwsError> {
        let (pool, user, _) = self.signed_in_user()?;
        self.remove_device(pool, &user)
    }

    pub(super) fn admin_forget_device(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminForgetDevice")?;
        self.remove_device(pool, &self.named_user(pool)?)
    }

    fn set_device_status(&self, pool: &Pool, user: &User) -> Result<Value, AwsError> {
        let key = self.required("DeviceKey", "deviceKey")?;
        let is_remembered = match self.text("DeviceRememberedStatus") {
            Some("remembered") => true,
            Some("not_remembered") => false,
            _ => {
                return Err(invalid_parameter(
                    "1 validation error detected: Value at 'deviceRememberedStatus' failed to satisfy constraint: \
                     Member must satisfy enum value set: [remembered, not_remembered]",
                ));
            }
        };
        let now_ms = self.now_ms();
        pool.directory.update(&user.sub, |user| {
            let device = user.devices.iter_mut().find(|device| device.key == key).ok_or_else(no_device)?;
            device.is_remembered = is_remembered;
            device.modify_ms = now_ms;
            Ok(json!({}))
        })?
    }

    fn show_device(&self, pool: &Pool, user: &User) -> Result<Value, AwsError> {
        let device = user.device(self.required("DeviceKey", "deviceKey")?).ok_or_else(no_device)?;
        Ok(json!({ "Device": entry(pool, user, device) }))
    }

    fn page_of_devices(&self, pool: &Pool, user: &User) -> Result<Value, AwsError> {
        let query = PageQuery::read(self, "PaginationToken")?;
        let mut devices: Vec<&Device> =
            user.devices.iter().filter(|device| device.key.as_str() > query.after()).collect();
        devices.sort_by(|a, b| a.key.cmp(&b.key));
        devices.truncate(query.limit + 1);
        Ok(query.answer("Devices", devices, |device| device.key.clone(), |device| entry(pool, user, device)))
    }

    fn remove_device(&self, pool: &Pool, user: &User) -> Result<Value, AwsError> {
        let key = self.required("DeviceKey", "deviceKey")?;
        pool.directory.update(&user.sub, |user| {
            let before = user.devices.len();
            user.devices.retain(|device| device.key != key);
            if user.devices.len() == before { Err(no_device()) } else { Ok(json!({})) }
        })?
    }
}

/// There is no such device (any more): clients forget theirs and sign in without.
pub fn no_device() -> AwsError {
    AwsError::new("ResourceNotFoundException", "Device does not exist.")
}

fn invalid_key() -> AwsError {
    invalid_parameter("Invalid device key given.")
}

fn entry(pool: &Pool, user: &User, device: &Device) -> Value {
    let owner = format!("{}.{}", user.username, pool.seed.id);
    let account = pool.arn.rsplit_once(":userpool/").map_or("", |(account, _)| account);
    let remembered = if device.is_remembered { "remembered" } else { "not_remembered" };
    let mut attributes = vec![("device_status", "valid".to_owned())];
    attributes.extend(device.name.clone().map(|name| ("device_name", name)));
    attributes.extend([
        ("dev:device_arn", format!("{account}:owner/{owner}/device/{}", device.key)),
        ("dev:device_owner", owner),
        ("dev:device_remembered_status", remembered.to_owned()),
    ]);
    let attributes: Vec<_> =
        attributes.into_iter().map(|(name, value)| json!({ "Name": name, "Value": value })).collect();
    json!({
        "DeviceKey": device.key,
        "DeviceAttributes": attributes,
        "DeviceCreateDate": seconds(device.create_ms),
        "DeviceLastModifiedDate": seconds(device.modify_ms),
        "DeviceLastAuthenticatedDate": seconds(device.authenticate_ms),
    })
}
