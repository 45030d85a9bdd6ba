//! What S3 knows about its objects and multipart uploads: one SQLite file.
//!
//! Promises that every change is one transaction, so that a conditional write decides and writes in one step. Never
//! touches the bytes; it says which files are no longer referred to. For blocking threads only.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::blob::Segment;
use super::checksum::{Algorithm, Checksum, Coverage, Digests};

/// What a client says about an object besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `x-amz-meta-…`, names without the prefix.
    pub metadata: BTreeMap<String, String>,
}

/// One version of an object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// `null` where the bucket keeps no versions.
    pub version_id: String,
    /// A delete marker has no bytes.
    pub delete_marker: bool,
    /// Without quotes.
    pub etag: String,
    /// In bytes.
    pub size: u64,
    /// When it was written, in milliseconds since 1970.
    pub modified_unix_ms: i64,
    /// Where its bytes are; more than one where it came in parts.
    pub segments: Vec<Segment>,
    /// How many parts it came in; none where it came in one piece.
    pub parts: Option<u32>,
    /// What the client said.
    pub attributes: Attributes,
    /// Its checksum.
    pub checksum: Option<Checksum>,
}

/// A multipart upload that was neither completed nor aborted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    /// Its id.
    pub id: String,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// When it began, in milliseconds since 1970.
    pub initiated_unix_ms: i64,
    /// Who began it.
    pub initiator_arn: String,
    /// What the client said.
    pub attributes: Attributes,
    /// The checksum's algorithm.
    pub algorithm: Algorithm,
    /// The client named the algorithm.
    pub algorithm_was_named: bool,
    /// What the checksum will cover.
    pub coverage: Coverage,
}

/// A part of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// Its bytes.
    pub segment: Segment,
    /// What they add up to.
    pub digests: Digests,
    /// When it was written, in milliseconds since 1970.
    pub modified_unix_ms: i64,
}

/// What a write asks of the object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match`.
    Etag(String),
}

/// Why a write was not made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The condition does not hold.
    #[error("the object's condition does not hold")]
    Precondition,
    /// `If-Match` on a key where nothing is.
    #[error("no such object")]
    NoSuchKey,
    /// The upload was completed, aborted, or never was.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part was sent again while the upload was completed: its bytes lie elsewhere now.
    #[error("a part was replaced while the upload was completed")]
    PartReplaced,
    /// SQLite's.
    #[error("the object index failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// A record does not say what it should.
    #[error("the object index holds a broken record: {0}")]
    Record(#[from] serde_json::Error),
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
}

impl Index {
    /// Opens the file, makes it where it is missing.
    ///
    /// # Errors
    /// [`IndexError::Database`].
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS object (
                bucket TEXT NOT NULL, key TEXT NOT NULL, sequence INTEGER NOT NULL, version_id TEXT NOT NULL,
                current INTEGER NOT NULL, delete_marker INTEGER NOT NULL, record TEXT NOT NULL,
                PRIMARY KEY (bucket, key, sequence)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS listed ON object (bucket, key) WHERE current = 1 AND delete_marker = 0;
             CREATE TABLE IF NOT EXISTS upload (
                id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key TEXT NOT NULL, record TEXT NOT NULL) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS upload_by_key ON upload (bucket, key, id);
             CREATE TABLE IF NOT EXISTS part (
                upload_id TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL,
                PRIMARY KEY (upload_id, number)) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS bucket (name TEXT PRIMARY KEY, created_unix_ms INTEGER NOT NULL) WITHOUT ROWID;",
        )?;
        Ok(Self { connection })
    }

    /// Notes a bucket; gives when it was first seen, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`IndexError::Database`].
    pub fn ensure_bucket(&self, name: &str, now_unix_ms: i64) -> Result<i64, IndexError> {
        let insert = "INSERT INTO bucket (name, created_unix_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.connection.execute(insert, params![name, now_unix_ms])?;
        let select = "SELECT created_unix_ms FROM bucket WHERE name = ?1";
        Ok(self.connection.query_row(select, [name], |row| row.get(0))?)
    }

    /// Every file that a record refers to.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn files(&self) -> Result<HashSet<String>, IndexError> {
        let mut files = HashSet::new();
        let mut statement = self.connection.prepare("SELECT record FROM object")?;
        for record in statement.query_map([], |row| row.get::<_, String>(0))? {
            let object: Object = serde_json::from_str(&record?)?;
            files.extend(object.segments.into_iter().map(|segment| segment.file));
        }
        let mut statement = self.connection.prepare("SELECT record FROM part")?;
        for record in statement.query_map([], |row| row.get::<_, String>(0))? {
            let part: Part = serde_json::from_str(&record?)?;
            files.insert(part.segment.file);
        }
        Ok(files)
    }

    /// The current version, or the one with this id.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn object(&self, bucket: &str, key: &str, version_id: Option<&str>) -> Result<Option<Object>, IndexError> {
        find_object(&self.connection, bucket, key, version_id)
    }

    /// Writes an object if its condition holds; gives the files that are no longer referred to.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn put(&mut self, object: &Object, condition: &Condition, versioned: bool) -> Result<Vec<String>, IndexError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        check(&transaction, object, condition)?;
        let freed = insert(&transaction, object, versioned)?;
        transaction.commit()?;
        Ok(freed)
    }

    /// Whether a write with this condition would be refused now.
    ///
    /// # Errors
    /// [`IndexError::Precondition`], [`IndexError::NoSuchKey`] or the database's.
    pub fn check(&self, bucket: &str, key: &str, condition: &Condition) -> Result<(), IndexError> {
        check_condition(find_object(&self.connection, bucket, key, None)?.as_ref(), condition)
    }

    /// Removes the key's only version (or one version of several); gives the files that are no longer referred to.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn delete(&mut self, bucket: &str, key: &str, version_id: Option<&str>) -> Result<Vec<String>, IndexError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut freed = Vec::new();
        let all = versions_of(&transaction, bucket, key)?;
        for (sequence, object) in all {
            if version_id.is_none_or(|wanted| object.version_id == wanted) {
                let delete = "DELETE FROM object WHERE bucket = ?1 AND key = ?2 AND sequence = ?3";
                transaction.execute(delete, params![bucket, key, sequence])?;
                freed.extend(object.segments.into_iter().map(|segment| segment.file));
            }
        }
        make_newest_current(&transaction, bucket, key)?;
        transaction.commit()?;
        Ok(freed)
    }

    /// Up to `limit` current objects with the prefix, behind `after` (exclusive) in the order of their bytes.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn list(&self, bucket: &str, prefix: &str, after: &str, limit: usize) -> Result<Vec<Object>, IndexError> {
        let select = "SELECT record FROM object WHERE bucket = ?1 AND key >= ?2 AND key > ?3 AND current = 1 AND \
                      delete_marker = 0 ORDER BY key LIMIT ?4";
        let mut statement = self.connection.prepare_cached(select)?;
        let rows = statement
            .query_map(params![bucket, prefix, after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                row.get::<_, String>(0)
            })?;
        let mut objects = Vec::new();
        for record in rows {
            let object: Object = serde_json::from_str(&record?)?;
            if !object.key.starts_with(prefix) {
                break;
            }
            objects.push(object);
        }
        Ok(objects)
    }

    /// All versions with the prefix, newest first within a key; the flag says which is the latest.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn versions(&self, bucket: &str, prefix: &str) -> Result<Vec<(bool, Object)>, IndexError> {
        let select = "SELECT current, record FROM object WHERE bucket = ?1 AND key >= ?2 ORDER BY key, sequence DESC";
        let mut statement = self.connection.prepare_cached(select)?;
        let rows = statement.query_map(params![bucket, prefix], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
        let mut versions = Vec::new();
        for row in rows {
            let (current, record) = row?;
            let object: Object = serde_json::from_str(&record)?;
            if !object.key.starts_with(prefix) {
                break;
            }
            versions.push((current, object));
        }
        Ok(versions)
    }

    /// Notes a new upload.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn create_upload(&self, upload: &Upload) -> Result<(), IndexError> {
        let record = serde_json::to_string(upload)?;
        let insert = "INSERT INTO upload (id, bucket, key, record) VALUES (?1, ?2, ?3, ?4)";
        self.connection.execute(insert, params![upload.id, upload.bucket, upload.key, record])?;
        Ok(())
    }

    /// The upload of this id, bucket and key.
    ///
    /// # Errors
    /// [`IndexError::NoSuchUpload`] where there is none.
    pub fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload, IndexError> {
        find_upload(&self.connection, bucket, key, id)
    }

    /// The bucket's uploads with the prefix, by key and then by age.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<Upload>, IndexError> {
        let select = "SELECT record FROM upload WHERE bucket = ?1 AND key >= ?2 ORDER BY key, id";
        let mut statement = self.connection.prepare_cached(select)?;
        let rows = statement.query_map(params![bucket, prefix], |row| row.get::<_, String>(0))?;
        let mut uploads = Vec::new();
        for record in rows {
            let upload: Upload = serde_json::from_str(&record?)?;
            if !upload.key.starts_with(prefix) {
                break;
            }
            uploads.push(upload);
        }
        Ok(uploads)
    }

    /// Notes a part, in the place of one with the same number; gives the file that is no longer referred to.
    ///
    /// # Errors
    /// [`IndexError::NoSuchUpload`] where the upload ended meanwhile.
    pub fn put_part(&mut self, upload: &Upload, part: &Part) -> Result<Vec<String>, IndexError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        find_upload(&transaction, &upload.bucket, &upload.key, &upload.id)?;
        let select = "SELECT record FROM part WHERE upload_id = ?1 AND number = ?2";
        let before: Option<String> =
            transaction.query_row(select, params![upload.id, part.number], |row| row.get(0)).optional()?;
        let record = serde_json::to_string(part)?;
        let replace = "INSERT OR REPLACE INTO part (upload_id, number, record) VALUES (?1, ?2, ?3)";
        transaction.execute(replace, params![upload.id, part.number, record])?;
        transaction.commit()?;
        match before {
            Some(record) => Ok(vec![serde_json::from_str::<Part>(&record)?.segment.file]),
            None => Ok(Vec::new()),
        }
    }

    /// The upload's parts in the order of their numbers.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parts(&self, upload_id: &str) -> Result<Vec<Part>, IndexError> {
        parts_of(&self.connection, upload_id)
    }

    /// Puts the object in the place of the upload, if its condition holds; gives the files that are no longer
    /// referred to (of parts that were left out, and of what was there before).
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn complete(
        &mut self,
        upload: &Upload,
        object: &Object,
        condition: &Condition,
        versioned: bool,
    ) -> Result<Vec<String>, IndexError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        find_upload(&transaction, &upload.bucket, &upload.key, &upload.id)?;
        check(&transaction, object, condition)?;
        let mut freed = insert(&transaction, object, versioned)?;
        let mut used: HashSet<&str> = object.segments.iter().map(|segment| segment.file.as_str()).collect();
        for part in parts_of(&transaction, &upload.id)? {
            if !used.remove(part.segment.file.as_str()) {
                freed.push(part.segment.file);
            }
        }
        if !used.is_empty() {
            return Err(IndexError::PartReplaced);
        }
        forget_upload(&transaction, &upload.id)?;
        transaction.commit()?;
        Ok(freed)
    }

    /// Ends the upload without an object; gives the files that are no longer referred to.
    ///
    /// # Errors
    /// [`IndexError::NoSuchUpload`] where there is none.
    pub fn abort(&mut self, bucket: &str, key: &str, id: &str) -> Result<Vec<String>, IndexError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        find_upload(&transaction, bucket, key, id)?;
        let freed = parts_of(&transaction, id)?.into_iter().map(|part| part.segment.file).collect();
        forget_upload(&transaction, id)?;
        transaction.commit()?;
        Ok(freed)
    }
}

fn check(transaction: &Transaction<'_>, object: &Object, condition: &Condition) -> Result<(), IndexError> {
    check_condition(find_object(transaction, &object.bucket, &object.key, None)?.as_ref(), condition)
}

fn check_condition(present: Option<&Object>, condition: &Condition) -> Result<(), IndexError> {
    let present = present.filter(|object| !object.delete_marker);
    match (condition, present) {
        (Condition::Absent, Some(_)) => Err(IndexError::Precondition),
        (Condition::Etag(_), None) => Err(IndexError::NoSuchKey),
        (Condition::Etag(wanted), Some(object)) if object.etag != *wanted => Err(IndexError::Precondition),
        _ => Ok(()),
    }
}

fn insert(transaction: &Transaction<'_>, object: &Object, versioned: bool) -> Result<Vec<String>, IndexError> {
    let mut freed = Vec::new();
    let before = versions_of(transaction, &object.bucket, &object.key)?;
    let sequence = before.first().map_or(1, |(newest, _)| newest + 1);
    if versioned {
        let demote = "UPDATE object SET current = 0 WHERE bucket = ?1 AND key = ?2";
        transaction.execute(demote, params![object.bucket, object.key])?;
    } else {
        let delete = "DELETE FROM object WHERE bucket = ?1 AND key = ?2";
        transaction.execute(delete, params![object.bucket, object.key])?;
        freed.extend(before.into_iter().flat_map(|(_, old)| old.segments).map(|segment| segment.file));
    }
    let insert = "INSERT INTO object (bucket, key, sequence, version_id, current, delete_marker, record) \
                  VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6)";
    let record = serde_json::to_string(object)?;
    transaction.execute(
        insert,
        params![object.bucket, object.key, sequence, object.version_id, object.delete_marker, record],
    )?;
    Ok(freed)
}

fn make_newest_current(transaction: &Transaction<'_>, bucket: &str, key: &str) -> Result<(), IndexError> {
    let update = "UPDATE object SET current = (sequence = (SELECT max(sequence) FROM object WHERE bucket = ?1 AND \
                  key = ?2)) WHERE bucket = ?1 AND key = ?2";
    transaction.execute(update, params![bucket, key])?;
    Ok(())
}

/// All versions of a key, newest first.
fn versions_of(connection: &Connection, bucket: &str, key: &str) -> Result<Vec<(i64, Object)>, IndexError> {
    let select = "SELECT sequence, record FROM object WHERE bucket = ?1 AND key = ?2 ORDER BY sequence DESC";
    let mut statement = connection.prepare_cached(select)?;
    let rows = statement.query_map(params![bucket, key], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    let mut versions = Vec::new();
    for row in rows {
        let (sequence, record) = row?;
        versions.push((sequence, serde_json::from_str(&record)?));
    }
    Ok(versions)
}

fn find_object(
    connection: &Connection,
    bucket: &str,
    key: &str,
    version_id: Option<&str>,
) -> Result<Option<Object>, IndexError> {
    let record = |row: &Row<'_>| row.get::<_, String>(0);
    let found = match version_id {
        None => {
            let select = "SELECT record FROM object WHERE bucket = ?1 AND key = ?2 AND current = 1";
            connection.query_row(select, params![bucket, key], record).optional()?
        }
        Some(version_id) => {
            let select = "SELECT record FROM object WHERE bucket = ?1 AND key = ?2 AND version_id = ?3";
            connection.query_row(select, params![bucket, key, version_id], record).optional()?
        }
    };
    Ok(found.map(|record| serde_json::from_str(&record)).transpose()?)
}

fn find_upload(connection: &Connection, bucket: &str, key: &str, id: &str) -> Result<Upload, IndexError> {
    let select = "SELECT record FROM upload WHERE id = ?1 AND bucket = ?2 AND key = ?3";
    let found: Option<String> = connection.query_row(select, params![id, bucket, key], |row| row.get(0)).optional()?;
    Ok(serde_json::from_str(&found.ok_or(IndexError::NoSuchUpload)?)?)
}

fn parts_of(connection: &Connection, upload_id: &str) -> Result<Vec<Part>, IndexError> {
    let mut statement = connection.prepare_cached("SELECT record FROM part WHERE upload_id = ?1 ORDER BY number")?;
    let rows = statement.query_map([upload_id], |row| row.get::<_, String>(0))?;
    let mut parts = Vec::new();
    for record in rows {
        parts.push(serde_json::from_str(&record?)?);
    }
    Ok(parts)
}

fn forget_upload(transaction: &Transaction<'_>, id: &str) -> Result<(), IndexError> {
    transaction.execute("DELETE FROM part WHERE upload_id = ?1", [id])?;
    transaction.execute("DELETE FROM upload WHERE id = ?1", [id])?;
    Ok(())
}
