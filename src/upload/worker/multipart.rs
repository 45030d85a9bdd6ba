//! An object in parts. Every part that the store has taken is in the journal before the next thing happens, so that a
//! later process sends only what was in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::call::{Reply, Request, Stop};
use super::{Ended, Transfer, journal_failed};
use crate::store::{PartReceipt, StoreErrorKind as Kind};
use crate::upload::crc64nvme;
use crate::upload::journal::Arrived;
use crate::upload::plan::{Part, part, part_count};

/// CRC64NVME of the whole object, from its parts in order.
pub(super) fn combined(parts: &[PartReceipt]) -> u64 {
    parts.iter().fold(crc64nvme::EMPTY, |whole, part| {
        crc64nvme::combine(whole, part.crc64nvme.unwrap_or_default(), part.size_bytes)
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

/// A part that is to be sent, and its checksum where it is known already.
#[derive(Debug, Clone, Copy)]
struct Unsent {
    place: Part,
    crc64nvme: Option<u64>,
}

/// Parts that the store has and that the journal does not know.
type Unclaimed = BTreeMap<u32, PartReceipt>;

impl Transfer {
    /// The parts of a stream that are here already, until there are no more of them.
    pub(super) async fn early(self: &Arc<Self>) -> Result<Ended, Ended> {
        let Some(part_bytes) = self.row.part_bytes else { return Ok(Ended::Drained) };
        let work = self.unsent_arrived(part_bytes).await?;
        if work.is_empty() {
            return Ok(Ended::Drained);
        }
        let known_id = if self.is_too_old() {
            self.restart(true, "it is too old").await?;
            None
        } else {
            self.row.multipart_id.clone()
        };
        let id = match known_id {
            Some(id) => id,
            None => self.begin(part_bytes).await?,
        };
        let mut parts = self.known_parts().await?;
        let unclaimed = self.reconcile(&id, &mut parts).await?;
        match self.send_parts(&id, part_bytes, work, true, unclaimed, &mut parts).await? {
            None => Ok(Ended::Drained),
            Some(_) => {
                self.restart(false, "the store does not know it any more").await?;
                Err(self.once_more("the multipart upload is gone at the store: the parts are sent again"))
            }
        }
    }

    async fn unsent_arrived(&self, part_bytes: u64) -> Result<VecDeque<Unsent>, Ended> {
        let most = self.store.profile().part_max_count;
        let arrived = self.core.journal.arrived(self.row.id, true).await.map_err(|why| journal_failed(&why))?;
        let unsent = |part: &Arrived| Unsent { place: part.place(part_bytes), crc64nvme: Some(part.crc64nvme) };
        Ok(arrived.iter().filter(|part| part.number <= most).map(unsent).collect())
    }

    pub(super) async fn multipart(self: &Arc<Self>, part_bytes: u64) -> Result<Ended, Ended> {
        let mut multipart_id = self.row.multipart_id.clone();
        if multipart_id.is_some() {
            let outgrown = self.row.part_bytes != Some(part_bytes);
            if outgrown || self.is_too_old() {
                self.restart(true, if outgrown { "its parts are too many" } else { "it is too old" }).await?;
                multipart_id = None;
            }
        }
        for restarted in [false, true] {
            let id = match multipart_id.take() {
                Some(id) => id,
                None => self.begin(part_bytes).await?,
            };
            match self.round(&id, part_bytes).await? {
                Round::Ended(ended) => return Ok(ended),
                Round::Restart { abort, why } => {
                    self.restart(abort, &why).await?;
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
        let (id, now_ms) = (created.id().to_owned(), self.core.now_ms());
        let begun = self.core.journal.multipart_begun(self.row.id, id, part_bytes, now_ms).await;
        if begun.map_err(|why| journal_failed(&why))? {
            return Ok(created.recorded());
        }
        // Cancelled or begun anew meanwhile: dropping it has it aborted.
        Err(Ended::Stopped)
    }

    /// Forgets the multipart upload.
    async fn restart(&self, abort: bool, why: &str) -> Result<(), Ended> {
        tracing::info!(upload = %self.row.id, why, "begins another multipart upload");
        let forgotten = self.core.journal.restart_multipart(self.row.id, abort, self.core.now_ms()).await;
        forgotten.map_err(|why| journal_failed(&why))?;
        self.core.aborts.notify_one();
        self.running.stored_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    async fn known_parts(&self) -> Result<BTreeMap<u32, PartReceipt>, Ended> {
        let known = self.core.journal.parts(self.row.id).await.map_err(|why| journal_failed(&why))?;
        let stored_bytes = known.iter().map(|part| part.size_bytes).sum();
        self.running.stored_bytes.store(stored_bytes, Ordering::Relaxed);
        self.core.amend(self.row.id, |note| note.most_stored = note.most_stored.max(stored_bytes));
        self.core.refresh(self.row.id);
        Ok(known.into_iter().map(|part| (part.number, part)).collect())
    }

    /// The bucket's lifecycle rule may remove it soon.
    fn is_too_old(&self) -> bool {
        if self.row.multipart_id.is_none() {
            return false;
        }
        let since = self.row.multipart_ms.unwrap_or(self.row.create_ms);
        let age_ms = u64::try_from(self.core.now_ms().saturating_sub(since)).unwrap_or(0);
        age_ms / 1_000 >= self.core.config().multipart_max_age_s
    }

    /// Where an earlier attempt left parts of which nobody knows whether the store has them, asks it: parts that it has
    /// are not sent again, and parts that it has lost are. Where it does not tell, the journal's word stands.
    async fn reconcile(&self, multipart_id: &str, parts: &mut BTreeMap<u32, PartReceipt>) -> Result<Unclaimed, Ended> {
        let mut known = self.row.multipart_id.as_deref() != Some(multipart_id);
        self.core.amend(self.row.id, |note| known |= std::mem::take(&mut note.parts_known));
        if known {
            return Ok(Unclaimed::new());
        }
        let listed = match self.call(Request::List { multipart_id }).await {
            Ok(Reply::Listed(listed)) => listed,
            Ok(_) => return Err(self.puzzled()),
            Err(Stop::Store(error)) => {
                // One that is gone is begun anew where that shows next.
                tracing::debug!(upload = %self.row.id, %error, "the store does not say which parts it has");
                return Ok(Unclaimed::new());
            }
            Err(Stop::Ended(ended)) => return Err(ended),
        };
        let mut listed: Unclaimed = listed.into_iter().map(|part| (part.number, part)).collect();
        let is_there = |part: &PartReceipt| listed.get(&part.number).is_some_and(|there| there.etag == part.etag);
        let lost: Vec<u32> = parts.values().filter(|part| !is_there(part)).map(|part| part.number).collect();
        if !lost.is_empty() {
            tracing::warn!(upload = %self.row.id, parts = lost.len(), "the store has lost parts: they are sent again");
            parts.retain(|number, _| !lost.contains(number));
            let forgotten = self.core.journal.parts_lost(self.row.id, lost).await;
            forgotten.map_err(|why| journal_failed(&why))?;
            self.running.stored_bytes.store(parts.values().map(|part| part.size_bytes).sum(), Ordering::Relaxed);
        }
        listed.retain(|number, _| !parts.contains_key(number));
        Ok(listed)
    }

    /// Every part that the store does not have yet.
    async fn missing(&self, part_bytes: u64, done: &BTreeMap<u32, PartReceipt>) -> Result<VecDeque<Unsent>, Ended> {
        let mut arrived = BTreeMap::new();
        if self.row.part_bytes == Some(part_bytes) && self.fingerprint.is_none() {
            let parts = self.core.journal.arrived(self.row.id, true).await.map_err(|why| journal_failed(&why))?;
            arrived.extend(parts.into_iter().map(|part| ((part.number, part.size_bytes), part.crc64nvme)));
        }
        let missing = (1..=part_count(self.total_bytes, part_bytes)).filter(|number| !done.contains_key(number));
        let unsent = |number| {
            let place = part(self.total_bytes, part_bytes, number);
            Unsent { place, crc64nvme: arrived.get(&(number, place.len)).copied() }
        };
        Ok(missing.map(unsent).collect())
    }

    async fn round(self: &Arc<Self>, multipart_id: &str, part_bytes: u64) -> Result<Round, Ended> {
        let mut parts = self.known_parts().await?;
        let unclaimed = self.reconcile(multipart_id, &mut parts).await?;
        let work = self.missing(part_bytes, &parts).await?;
        if let Some(restart) = self.send_parts(multipart_id, part_bytes, work, false, unclaimed, &mut parts).await? {
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

    /// Sends parts, several at once; with `arriving`, also those that come meanwhile. The first failure lets the others
    /// end, because what they have sent already need not be sent again.
    async fn send_parts(
        self: &Arc<Self>,
        multipart_id: &str,
        part_bytes: u64,
        mut work: VecDeque<Unsent>,
        arriving: bool,
        mut unclaimed: Unclaimed,
        done: &mut BTreeMap<u32, PartReceipt>,
    ) -> Result<Option<Round>, Ended> {
        let mut under_way = JoinSet::new();
        let mut begun = BTreeSet::new();
        let mut stopped = None;
        loop {
            if arriving && work.is_empty() && stopped.is_none() {
                work = self.unsent_arrived(part_bytes).await?;
                work.retain(|unsent| !begun.contains(&unsent.place.number));
            }
            // One more than may be on the wire: its checksum is computed while the others are sent.
            while stopped.is_none()
                && under_way.len() <= self.core.wire.limit()
                && let Some(unsent) = work.pop_front()
            {
                begun.insert(unsent.place.number);
                let (transfer, id) = (Arc::clone(self), multipart_id.to_owned());
                let there = unclaimed.remove(&unsent.place.number);
                under_way.spawn(async move { transfer.send_part(&id, unsent, there).await });
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
            None => {
                self.core.amend(self.row.id, |note| note.parts_known = true);
                Ok(None)
            }
            Some(Stop::Store(error)) if error.kind == Kind::NoSuchUpload => {
                // With a completion in doubt, the multipart upload may be gone because it has become the object. Where
                // nobody may look, the new one's completion finds the key taken.
                Ok(Some(Round::Restart { abort: false, why: error.to_string() }))
            }
            Some(stop) => Err(self.give_up(stop)),
        }
    }

    /// Sends a part, unless the store has it already: then `there` is its receipt.
    async fn send_part(
        &self,
        multipart_id: &str,
        unsent: Unsent,
        there: Option<PartReceipt>,
    ) -> Result<PartReceipt, Stop> {
        let Part { number, offset, len } = unsent.place;
        let crc64nvme = match unsent.crc64nvme {
            Some(arrived) => arrived,
            None => self.crc(offset, len).await.map_err(Stop::Ended)?,
        };
        let body = self.body(offset, len, crc64nvme);
        let reply = match there.filter(|there| there.size_bytes == len && there.crc64nvme == Some(crc64nvme)) {
            Some(receipt) => Reply::Part(receipt),
            None => self.call(Request::Part { multipart_id, number, body: &body }).await?,
        };
        match reply {
            Reply::Part(receipt) => {
                let kept = self.core.journal.part_done(self.row.id, multipart_id.to_owned(), receipt.clone()).await;
                if !kept.map_err(|why| Stop::Ended(journal_failed(&why)))? {
                    return Err(Stop::Ended(Ended::Stopped));
                }
                let before = self.running.stored_bytes.fetch_add(receipt.size_bytes, Ordering::Relaxed);
                if self.core.got_on(self.row.id, before + receipt.size_bytes) {
                    let forgotten = self.core.journal.failing(vec![(self.row.id, 0)]).await;
                    forgotten.map_err(|why| Stop::Ended(journal_failed(&why)))?;
                }
                self.core.refresh(self.row.id);
                Ok(receipt)
            }
            _ => Err(Stop::Ended(self.puzzled())),
        }
    }
}
