//! What is accepted: from a caller's spec to the row that says everything about an upload. Authorises before it checks
//! anything else; promises that session, identity id, destination and key are fixed from here on.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use ulid::Ulid;

use super::core::Core;
use super::journal::{Entered, Row, Source, StoredSpec};
use super::key;
use super::plan::{self, PartSizes};
use super::source::Accepted;
use super::state::Phase;
use super::{Destination, KeyPolicy, OnDenied, Priority, UploadError, UploadSpec};
use crate::caller::Caller;
use crate::session::SessionError;
use crate::store::UPLOAD_ID_METADATA;

/// S3's limit on user metadata, names and values together.
const METADATA_MAX_BYTES: usize = 2_048;
const CONTENT_TYPE_MAX_BYTES: usize = 256;

/// The row of a new upload.
///
/// # Errors
/// `Session`, `DestinationNotFound`, `DestinationAmbiguous`, `InvalidKey`, `InvalidField`.
pub(super) async fn admit(
    core: &Core,
    caller: &Caller,
    id: Ulid,
    spec: &UploadSpec,
    spec_hash: [u8; 32],
    source: Source,
) -> Result<Row, UploadError> {
    let session = core.tenants.session(caller, spec.session.as_ref())?;
    if !core.tenants.takes_uploads(&session.id) {
        return Err(SessionError::NotFound(session.id.0).into());
    }
    let destination = choose(core, spec.destination.as_deref())?;
    check_fields(spec)?;
    // The key is checked before anything is asked of the network.
    key::whole_key("", &spec.key, spec.key_policy, id)?;
    let identity_id = match session.identity_id {
        Some(identity_id) => identity_id,
        None => core.tenants.identity_id(caller, &session.id).await?,
    };
    let prefix = key::expand_prefix(&destination.prefix, &identity_id, &session.subject)
        .map_err(|why| UploadError::InvalidKey { key: spec.key.clone(), why })?;
    let now_ms = core.now_ms();
    // The parts of a stream are sent while it arrives.
    let profile = destination.store.profile();
    let longest = core.spool.limit_bytes().min(core.config().spool_max_bytes_per_uid).min(profile.object_max_bytes);
    let most_bytes = core.config().part_size_max_bytes.min(core.config().spool_sync_interval_bytes);
    let part_bytes = plan::part_bytes(longest, PartSizes { most_bytes, ..core.part_sizes() }, &profile);
    Ok(Row {
        id,
        owner_uid: caller.uid,
        session: session.id,
        identity: session.identity,
        identity_id,
        destination: destination.name.clone(),
        bucket: destination.store.location().to_owned(),
        key: key::whole_key(&prefix, &spec.key, spec.key_policy, id)?,
        spec: StoredSpec::of(spec, session.kind),
        spec_hash,
        source,
        phase: Phase::Receiving,
        received_bytes: 0,
        received_crc: super::recovery::nothing().crc64nvme,
        total_bytes: None,
        crc64nvme: None,
        sha256: None,
        part_bytes: Some(part_bytes),
        multipart_id: None,
        multipart_ms: None,
        in_doubt: false,
        attempts: 0,
        failing_s: 0,
        failure: None,
        etag: None,
        version_id: None,
        create_ms: now_ms,
        update_ms: now_ms,
    })
}

/// Writes a new upload down, unless its id is taken: then answers the one that is there.
///
/// A sign-out that began after the upload was admitted either finds it among the session's uploads, or keeps it out. There
/// is no third way, in which it would be there for a moment and taken back: after a crash in that moment it would answer the
/// app's next try as cancelled.
///
/// # Errors
/// `Session` where the session has ended meanwhile; `Storage`.
pub(super) async fn enter(core: &Core, row: &Row) -> Result<Option<Row>, UploadError> {
    let (tenants, session) = (Arc::clone(&core.tenants), row.session.clone());
    match core.journal.enter(row.clone(), move || tenants.takes_uploads(&session)).await? {
        Entered::New => Ok(None),
        Entered::There(there) => Ok(Some(*there)),
        Entered::Refused => Err(SessionError::NotFound(row.session.0.clone()).into()),
    }
}

/// Makes an admitted upload one of a file of the device: everything is here.
///
/// # Errors
/// `TooLarge` where the destination's store takes no object of that size.
pub(super) fn of_file(core: &Core, row: Row, accepted: Accepted) -> Result<Row, UploadError> {
    let Accepted { root, relative, fingerprint } = accepted;
    let size_bytes = fingerprint.size_bytes;
    let limit_bytes = core.destination(&row.destination).map(|one| one.store.profile().object_max_bytes);
    if let Some(limit_bytes) = limit_bytes.filter(|limit| size_bytes > *limit) {
        return Err(UploadError::TooLarge { size_bytes, limit_bytes });
    }
    Ok(Row {
        source: Source::File { root, relative, fingerprint },
        phase: Phase::Pending,
        // Nothing of it is sent before its size is known.
        part_bytes: None,
        received_bytes: size_bytes,
        total_bytes: Some(size_bytes),
        ..row
    })
}

/// The upload that has the id already, where it is the same one.
///
/// # Errors
/// `IdReused`.
pub(super) fn same(row: Row, caller: &Caller, spec_hash: &[u8; 32]) -> Result<Row, UploadError> {
    if row.owner_uid == caller.uid && row.spec_hash == *spec_hash {
        return Ok(row);
    }
    Err(UploadError::IdReused(row.id))
}

fn choose(core: &Core, name: Option<&str>) -> Result<Destination, UploadError> {
    let all = core.destinations();
    match (name, all.as_slice()) {
        (Some(name), all) => all.iter().find(|one| one.name == name).cloned().ok_or_else(|| {
            let names = all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
            UploadError::DestinationNotFound(name.to_owned(), names)
        }),
        (None, [only]) => Ok(only.clone()),
        (None, all) => Err(UploadError::DestinationAmbiguous(all.len())),
    }
}

fn check_fields(spec: &UploadSpec) -> Result<(), UploadError> {
    let refuse = |field, why: String| Err(UploadError::InvalidField { field, why });
    if spec.overwrite && spec.key_policy == KeyPolicy::Unique {
        return refuse(
            "spec.overwrite",
            "works with the key policy EXACT only: a unique key overwrites nothing".into(),
        );
    }
    if let Some(content_type) = &spec.content_type {
        let plain = content_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if content_type.is_empty() || content_type.len() > CONTENT_TYPE_MAX_BYTES || !plain {
            let why = format!("must be 1 to {CONTENT_TYPE_MAX_BYTES} printable ASCII characters");
            return refuse("spec.content_type", why);
        }
    }
    let mut bytes = 0;
    for (name, value) in &spec.metadata {
        bytes += name.len() + value.len();
        // S3 hands names back in lower case: refusing others here keeps what is read the same as what was written.
        let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return refuse("spec.metadata", format!("name {name:?}: only a-z, 0-9, - _ . are allowed"));
        }
        if name.starts_with("tidegate-") {
            return refuse("spec.metadata", format!("name {name:?}: names with tidegate- are the daemon's own"));
        }
        let trimmed = value.trim() == value;
        if !trimmed || !value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return refuse("spec.metadata", format!("{name}: must be printable ASCII without outer spaces"));
        }
    }
    let own = UPLOAD_ID_METADATA.len() + ulid::ULID_LEN;
    if bytes + own > METADATA_MAX_BYTES {
        let why = format!("{bytes} bytes, at most {} are allowed", METADATA_MAX_BYTES - own);
        return refuse("spec.metadata", why);
    }
    Ok(())
}

/// What makes two calls the same: the spec as the caller gave it, and where the bytes come from.
pub(super) fn spec_hash(spec: &UploadSpec, path: Option<&std::path::Path>) -> [u8; 32] {
    use std::os::unix::ffi::OsStrExt as _;
    let mut hash = Sha256::new();
    // Lengths go first, so that no two specs run together into the same bytes.
    let mut field = |bytes: Option<&[u8]>| {
        hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    field(spec.session.as_ref().map(|session| session.0.as_bytes()));
    field(spec.destination.as_deref().map(str::as_bytes));
    field(Some(spec.key.as_bytes()));
    field(spec.content_type.as_deref().map(str::as_bytes));
    field(path.map(|path| path.as_os_str().as_bytes()));
    let policy = u8::from(spec.key_policy == KeyPolicy::Exact);
    let priority = match spec.priority {
        Priority::Interactive => 0,
        Priority::Normal => 1,
        Priority::Background => 2,
    };
    field(Some(&[policy, u8::from(spec.overwrite), priority, u8::from(spec.on_denied == OnDenied::Wait)]));
    for (name, value) in &spec.metadata {
        field(Some(name.as_bytes()));
        field(Some(value.as_bytes()));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_field_makes_another_spec() {
        let base = UploadSpec { key: "free/cat.jpg".into(), ..UploadSpec::default() };
        let metadata = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let others = [
            UploadSpec { key: "free/dog.jpg".into(), ..base.clone() },
            UploadSpec { destination: Some(String::new()), ..base.clone() },
            UploadSpec { session: Some(crate::session::SessionId("s".into())), ..base.clone() },
            UploadSpec { content_type: Some("image/png".into()), ..base.clone() },
            UploadSpec { key_policy: KeyPolicy::Exact, ..base.clone() },
            UploadSpec { overwrite: true, ..base.clone() },
            UploadSpec { priority: Priority::Background, ..base.clone() },
            UploadSpec { on_denied: OnDenied::Wait, ..base.clone() },
            UploadSpec { metadata, ..base.clone() },
        ];
        let mut hashes: Vec<_> = others.iter().map(|spec| spec_hash(spec, None)).collect();
        hashes.push(spec_hash(&base, None));
        hashes.push(spec_hash(&base, Some(Path::new("/srv/photos/cat.jpg"))));
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
        assert_eq!(spec_hash(&base, None), spec_hash(&base.clone(), None));
    }

    #[test]
    fn fields_that_a_store_could_not_keep_are_refused() {
        let with = |name: &str, value: &str| UploadSpec {
            metadata: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            ..UploadSpec::default()
        };
        let long = "x".repeat(2_100);
        let bad = [
            with("", "x"),
            with("Upper", "x"),
            with("a b", "x"),
            with("tidegate-upload-id", "x"),
            with("a", "ü"),
            with("a", "x\r\ny: z"),
            with("a", " x"),
            with("a", &long),
            UploadSpec { content_type: Some(String::new()), ..UploadSpec::default() },
            UploadSpec { content_type: Some("a\nb".into()), ..UploadSpec::default() },
            UploadSpec { overwrite: true, ..UploadSpec::default() },
        ];
        for spec in bad {
            assert!(matches!(check_fields(&spec), Err(UploadError::InvalidField { .. })), "{spec:?}");
        }
        check_fields(&with("camera", "Leica M6")).unwrap();
    }
}
