//! Resource names and page tokens: strict in, one form out.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::reason::Reason;
use super::status::{field, require};
use crate::session::SessionId;
use crate::upload::Ulid;

/// A page has this many items where the caller does not say.
const PAGE_DEFAULT: usize = 100;
/// A page has no more than this many, whatever the caller says.
const PAGE_MAX: usize = 1_000;
const TAG_BYTES: usize = 8;

/// `sessions/{id}`; `None` where the field is empty.
///
/// # Errors
/// INVALID_NAME.
pub fn session(path: &str, name: &str) -> Result<Option<SessionId>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    let id = name.strip_prefix("sessions/").and_then(ulid);
    let id = id.ok_or_else(|| field(Reason::InvalidName, path, "must be `sessions/{id}` with the id of a session"))?;
    Ok(Some(SessionId(id.to_string())))
}

/// `uploads/{ulid}`.
///
/// # Errors
/// MISSING_FIELD, INVALID_NAME.
pub fn upload(path: &str, name: &str) -> Result<Ulid, Status> {
    require(&[(path, !name.is_empty())])?;
    let id = name.strip_prefix("uploads/").and_then(ulid);
    id.ok_or_else(|| field(Reason::InvalidName, path, "must be `uploads/{id}` with the ULID of an upload"))
}

/// A client's own ULID; `None` where the field is empty.
///
/// # Errors
/// INVALID_FIELD.
pub fn upload_id(path: &str, id: &str) -> Result<Option<Ulid>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let why = "must be a ULID: 26 upper-case characters of Crockford's base32";
    ulid(id).map(Some).ok_or_else(|| field(Reason::InvalidField, path, why))
}

/// The name of a session.
pub fn of_session(id: &SessionId) -> String {
    format!("sessions/{}", id.0)
}

/// The name of an upload.
pub fn of_upload(id: Ulid) -> String {
    format!("uploads/{id}")
}

/// How many items to answer with.
///
/// # Errors
/// INVALID_PAGE_SIZE where it is negative.
pub fn page_size(page_size: i32) -> Result<usize, Status> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(field(Reason::InvalidPageSize, "page_size", "must not be negative")),
    }
}

/// What a page token belongs to: one listing of one caller with one filter.
#[derive(Debug)]
pub struct Listing([u8; TAG_BYTES]);

impl Listing {
    /// `kind` is the method, `filter` everything that must stay the same from page to page.
    pub fn new(kind: &str, uid: u32, filter: &impl std::fmt::Debug) -> Self {
        let hash = Sha256::digest(format!("{kind}\n{uid}\n{filter:?}"));
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash[..TAG_BYTES]);
        Self(tag)
    }

    /// The token of the page that starts behind `cursor`; empty at the end.
    pub fn token(&self, cursor: Option<Ulid>) -> String {
        let Some(cursor) = cursor else { return String::new() };
        let mut token = cursor.to_bytes().to_vec();
        token.extend(self.seal(&cursor.to_bytes()));
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Where the page of `token` starts; `None` for the first.
    ///
    /// # Errors
    /// INVALID_PAGE_TOKEN for tokens of another listing and for anything that is no token.
    pub fn cursor(&self, token: &str) -> Result<Option<Ulid>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let why = "is not from an answer to this caller and this filter: start again without it";
        let refused = || field(Reason::InvalidPageToken, "page_token", why);
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
        let (cursor, tag) = bytes.split_first_chunk::<16>().ok_or_else(refused)?;
        if tag != self.seal(cursor) {
            return Err(refused());
        }
        Ok(Some(Ulid::from_bytes(*cursor)))
    }

    /// Ties a cursor to the listing. It guards against mistakes, not against forgery: a caller sees nothing but its own
    /// items wherever the page starts.
    fn seal(&self, cursor: &[u8; 16]) -> [u8; TAG_BYTES] {
        let hash = Sha256::new().chain_update(self.0).chain_update(cursor).finalize();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash[..TAG_BYTES]);
        tag
    }
}

/// Only the canonical form: one upload must not have several names.
fn ulid(text: &str) -> Option<Ulid> {
    Ulid::from_string(text).ok().filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tonic_types::StatusExt as _;

    use super::*;

    const ID: &str = "01JD8Q4Z6M3N5P7R9T1V3X5Z7B";

    fn reason(status: &Status) -> String {
        status.get_error_details().error_info().unwrap().reason.clone()
    }

    #[test]
    fn names_are_taken_in_one_form_only() {
        assert_eq!(upload("name", &format!("uploads/{ID}")).unwrap().to_string(), ID);
        assert_eq!(session("name", &format!("sessions/{ID}")).unwrap().unwrap().0, ID);
        assert_eq!(session("name", "").unwrap(), None);
        let lower = ID.to_lowercase();
        let wrong = ["uploads/", "uploads/x", ID, "sessions/", "/", "uploads//", "uploads/../uploads", "uploads/\u{0}"];
        for name in wrong.iter().map(|name| (*name).to_owned()).chain([
            format!("Uploads/{ID}"),
            format!("uploads/{lower}"),
            format!("uploads/{ID}/"),
            format!(" uploads/{ID}"),
            format!("uploads/{ID}0"),
            format!("uploads/8{}", &ID[1..]),
        ]) {
            assert_eq!(reason(&upload("name", &name).unwrap_err()), "INVALID_NAME", "{name}");
            assert_eq!(reason(&session("name", &name).unwrap_err()), "INVALID_NAME", "{name}");
        }
        assert_eq!(reason(&upload("name", "").unwrap_err()), "MISSING_FIELD");
        assert_eq!(reason(&upload_id("upload_id", "x").unwrap_err()), "INVALID_FIELD");
        assert_eq!(upload_id("upload_id", "").unwrap(), None);
    }

    #[test]
    fn page_sizes_have_a_default_and_a_cap() {
        assert_eq!(page_size(0).unwrap(), 100);
        assert_eq!(page_size(7).unwrap(), 7);
        assert_eq!(page_size(i32::MAX).unwrap(), 1_000);
        assert_eq!(reason(&page_size(-1).unwrap_err()), "INVALID_PAGE_SIZE");
    }

    #[test]
    fn page_tokens_belong_to_their_listing() {
        let listing = Listing::new("ListUploads", 1_000, &["QUEUED"]);
        let cursor = Ulid::from_string(ID).unwrap();
        let token = listing.token(Some(cursor));
        assert_eq!(listing.cursor(&token).unwrap(), Some(cursor));
        assert_eq!(listing.cursor("").unwrap(), None);
        assert_eq!(listing.token(None), "");
        let others = [
            Listing::new("ListUploads", 1_001, &["QUEUED"]),
            Listing::new("ListUploads", 1_000, &["FAILED"]),
            Listing::new("ListSessions", 1_000, &["QUEUED"]),
        ];
        for other in others {
            assert_eq!(reason(&other.cursor(&token).unwrap_err()), "INVALID_PAGE_TOKEN");
        }
        for garbled in ["x", "AAAA", "🦀", &token[1..], &format!("{token}A"), &token.to_lowercase()] {
            assert_eq!(reason(&listing.cursor(garbled).unwrap_err()), "INVALID_PAGE_TOKEN", "{garbled}");
        }
    }
}
