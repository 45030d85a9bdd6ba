//! The order in which uploads ended: a number for each end, which only grows, so that whoever follows the ends of a uid
//! misses none and sees none twice, also across restarts.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{COLUMNS, Row, blob, read_row};
use super::{Journal, JournalError};
use crate::upload::state::Phase;

/// Notes an end, in the caller's transaction; a failed upload that is tried again has not ended any more. An upload that
/// stays as it was has not ended once more.
pub(super) fn note(connection: &Connection, row: &Row, before: Phase) -> rusqlite::Result<()> {
    if row.phase.has_ended() && row.phase != before {
        let mut count =
            connection.prepare_cached("UPDATE counters SET value = value + 1 WHERE name = 'ended' RETURNING value")?;
        let number: i64 = count.query_row([], |row| row.get(0))?;
        let mut update = connection.prepare_cached("UPDATE uploads SET end_number = ? WHERE id = ?")?;
        update.execute(params![number, blob(row.id)])?;
    } else if before.has_ended() && !row.phase.has_ended() {
        connection.prepare_cached("UPDATE uploads SET end_number = NULL WHERE id = ?")?.execute([blob(row.id)])?;
        super::folder_files::reopen(connection, row.id)?;
    }
    Ok(())
}

fn last_end(connection: &Connection) -> rusqlite::Result<u64> {
    let mut query = connection.prepare_cached("SELECT value FROM counters WHERE name = 'ended'")?;
    query.query_row([], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

impl Journal {
    /// A uid's uploads that ended after number `after`, in that order, each with its number.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn ended_after(&self, owner_uid: u32, after: u64, limit: usize) -> Result<Vec<(u64, Row)>, JournalError> {
        self.read(move |connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT {COLUMNS}, end_number FROM uploads WHERE owner_uid = ? AND end_number > ?
                 ORDER BY end_number LIMIT ?"
            ))?;
            let bounds =
                params![owner_uid, i64::try_from(after).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)];
            let rows = query
                .query_map(bounds, |row| Ok((row.get::<_, i64>("end_number")?.cast_unsigned(), read_row(row)?)))?;
            rows.collect()
        })
        .await
    }

    /// The number of the last end of all; 0 where nothing has ended yet.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn last_end(&self) -> Result<u64, JournalError> {
        self.read(last_end).await
    }

    /// The number of the last end of a uid's uploads before `time_ms`; 0 where there is none.
    ///
    /// # Errors
    /// Where the journal cannot be read.
    pub async fn last_end_before(&self, owner_uid: u32, time_ms: i64) -> Result<u64, JournalError> {
        self.read(move |connection| {
            // The wall clock may have been set back between two ends: the first one that is late enough counts.
            let mut query = connection.prepare_cached(
                "SELECT end_number - 1 FROM uploads WHERE owner_uid = ? AND end_number IS NOT NULL AND update_ms >= ?
                 ORDER BY end_number LIMIT 1",
            )?;
            let first: Option<i64> = query.query_row(params![owner_uid, time_ms], |row| row.get(0)).optional()?;
            match first {
                Some(before) => Ok(before.cast_unsigned()),
                None => last_end(connection),
            }
        })
        .await
    }
}
