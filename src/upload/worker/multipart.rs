//! An object in parts. Every part that the store has taken is in the journal before the next thing happens, so that a
//! later process sends only what was in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crc_fast::CrcAlgorithm;
use tokio::task::JoinSet;

use super::call::{Reply, Request, Stop};
use super::{Ended, Transfer, journal_failed};
use crate::store::{PartReceipt, StoreErrorKind as Kind};
use crate::upload::plan::{part, part_count};

/// CRC64NVME of the whole object, from its parts in order.
pub(super) fn combined(parts: &[PartReceipt]) -> u64 {
    let empty = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, b"");
    parts.iter().fold(empty, |whole, part| {
        crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, whole, part.crc64nvme.unwrap_or_default(), part.size_bytes)
    })
}

/// How a multipart upload ended.
enum Round {
    Ended(Ended),
    /// The store does not know it any more, or cannot complete it: begin another.
    Restart {
        abort: bool,
        why: String,
    },
}

impl Transfer {
    pub(super) async fn multipart(self: &Arc<Self>, part_bytes: u64) -> Result<Ended, Ended> {
        let mut multipart_id = self.row.multipart_id.clone();
        for restarted in [false, true] {
            let id = match multipart_id.take() {
                Some(id) => id,
                None => self.begin(part_bytes).await?,
            };
            match self.round(&id, part_bytes).await? {
                Round::Ended(ended) => return Ok(ended),
                Round::Restart { abort, why } => {
                    tracing::info!(upload = %self.row.id, why, "begins another multipart upload");
                    let forgotten = self.core.journal.restart_multipart(self.row.id, abort, self.core.now_ms()).await;
                    forgotten.map_err(|why| journal_failed(&why))?;
                    self.core.aborts.notify_one();
                    self.running.stored_bytes.store(0, Ordering::Relaxed);
                    if restarted {
                        return Err(self.once_more(&why));
                    }
                }
            }
        }
        Err(self.once_more("the multipart upload could not be completed"))
    }

    async fn begin(&self, part_bytes: u64) -> Result<String, Ended> {
        let created = match self.call(Request::Create).await {
            Ok(Reply::Created(created)) => *created,
            Ok(_) => return Err(self.puzzled()),
            Err(stop) => return Err(self.give_up(stop)),
        };
        let journalled = created.id().to_owned();
        let written = self.core.journal.change(self.row.id, self.core.now_ms(), move |row| {
            row.multipart_id = Some(journalled);
            row.part_bytes = Some(part_bytes);
        });
        written.await.map_err(|why| journal_failed(&why))?;
        Ok(created.recorded())
    }

    async fn round(self: &Arc<Self>, multipart_id: &str, part_bytes: u64) -> Result<Round, Ended> {
        let known = self.core.journal.parts(self.row.id).await.map_err(|why| journal_failed(&why))?;
        let mut parts: BTreeMap<u32, PartReceipt> = known.into_iter().map(|part| (part.number, part)).collect();
        self.running.stored_bytes.store(parts.values().map(|part| part.size_bytes).sum(), Ordering::Relaxed);
        self.core.refresh(self.row.id);
        if let Some(restart) = self.send_parts(multipart_id, part_bytes, &mut parts).await? {
            return Ok(restart);
        }
        let parts: Vec<PartReceipt> = parts.into_values().collect();
        let whole = combined(&parts);
        self.check_whole(whole)?;
        // The last look before the object becomes visible.
        self.check_source().await?;
        self.guard_key().await?;
        match self.call(Request::Complete { multipart_id, parts: &parts }).await {
            Ok(Reply::Stored(stored)) => Ok(Round::Ended(self.confirmed(stored, whole, true))),
            Ok(_) => Err(self.puzzled()),
            Err(Stop::Store(error)) => match error.kind {
                Kind::PreconditionFailed => self.settle_taken(whole).await.map(Round::Ended),
                Kind::NoSuchUpload => match self.settle_gone(whole).await? {
                    Some(ended) => Ok(Round::Ended(ended)),
                    None => Ok(Round::Restart { abort: false, why: error.to_string() }),
                },
                Kind::InvalidParts | Kind::BadDigest | Kind::Conflict => {
                    Ok(Round::Restart { abort: true, why: error.to_string() })
                }
                _ => Err(self.give_up(Stop::Store(error))),
            },
            Err(stop) => Err(self.give_up(stop)),
        }
    }

    /// Sends the parts that are not there yet, several at once. The first failure lets the others end, because what they
    /// have sent already need not be sent again.
    async fn send_parts(
        self: &Arc<Self>,
        multipart_id: &str,
        part_bytes: u64,
        done: &mut BTreeMap<u32, PartReceipt>,
    ) -> Result<Option<Round>, Ended> {
        let count = part_count(self.total_bytes, part_bytes);
        let mut missing = (1..=count).filter(|number| !done.contains_key(number)).collect::<Vec<_>>().into_iter();
        let mut under_way = JoinSet::new();
        let mut stopped = None;
        loop {
            while stopped.is_none()
                && under_way.len() < self.core.config().max_parts_in_flight.max(1)
                && let Some(number) = missing.next()
            {
                let (transfer, id) = (Arc::clone(self), multipart_id.to_owned());
                under_way.spawn(async move { transfer.send_part(&id, part_bytes, number).await });
            }
            match under_way.join_next().await {
                None => break,
                Some(Ok(Ok(receipt))) => drop(done.insert(receipt.number, receipt)),
                Some(Ok(Err(stop))) => drop(stopped.get_or_insert(stop)),
                Some(Err(why)) => {
                    let why = format!("sending a part broke off: {why}");
                    stopped.get_or_insert(Stop::Ended(Ended::Wait(super::device_failed(why))));
                }
            }
        }
        match stopped {
            None => Ok(None),
            Some(Stop::Store(error)) if error.kind == Kind::NoSuchUpload => {
                // With a completion in doubt, the multipart upload may be gone because it has become the object. Where
                // nobody may look, the new one's completion finds the key taken.
                Ok(Some(Round::Restart { abort: false, why: error.to_string() }))
            }
            Some(stop) => Err(self.give_up(stop)),
        }
    }

    async fn send_part(&self, multipart_id: &str, part_bytes: u64, number: u32) -> Result<PartReceipt, Stop> {
        let place = part(self.total_bytes, part_bytes, number);
        let crc64nvme = self.crc(place.offset, place.len).await.map_err(Stop::Ended)?;
        let body = self.body(place.offset, place.len, crc64nvme);
        match self.call(Request::Part { multipart_id, number, body: &body }).await? {
            Reply::Part(receipt) => {
                let journalled = self.core.journal.part_done(self.row.id, receipt.clone()).await;
                journalled.map_err(|why| Stop::Ended(journal_failed(&why)))?;
                self.running.stored_bytes.fetch_add(receipt.size_bytes, Ordering::Relaxed);
                self.core.refresh(self.row.id);
                Ok(receipt)
            }
            _ => Err(Stop::Ended(self.puzzled())),
        }
    }
}
