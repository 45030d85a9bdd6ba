//! A store that fails on purpose, before the work or after it ("done, but the reply was lost"), in front of another one:
//! for tests.

#![allow(missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::{
    ObjectHead, ObjectStore, PartBody, PartReceipt, Profile, Signer, StoreError, StoreErrorKind, Stored, Target,
};

/// How long `reached` waits for one more call.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused before anything happened.
    Before(StoreErrorKind),
    /// Done, and then this failure instead of the answer.
    After(StoreErrorKind),
    /// Never answers.
    Stall,
    /// Takes whoever calls down with it.
    Panic,
}

/// One operation of the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Put,
    CreateMultipart,
    UploadPart,
    Complete,
    Abort,
    ListParts,
    Head,
}

/// The faulty store; clones share faults and counters.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
    called: Arc<tokio::sync::watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Plan {
    next: BTreeMap<Operation, VecDeque<Fault>>,
    always: BTreeMap<Operation, Fault>,
    calls: BTreeMap<Operation, usize>,
    signed: Vec<(String, String)>,
    part_bytes: u64,
    gates: BTreeMap<Operation, tokio::sync::watch::Receiver<bool>>,
    at_gate: BTreeMap<Operation, usize>,
    /// Writes that make an object visible and that their caller left before they were answered, by key.
    unanswered: BTreeMap<String, u32>,
}

/// A call that is under way; with the key of what it makes visible.
struct UnderWay<'a>(&'a Mutex<Plan>, Option<&'a str>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.1 {
            *self.0.lock().expect("no panic").unanswered.entry(key.to_owned()).or_default() += 1;
        }
    }
}

impl Faulty {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, plan: Arc::default(), called: Arc::new(tokio::sync::watch::Sender::new(())) }
    }

    /// The same faults and counters in front of another store.
    pub fn over(&self, inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, ..self.clone() }
    }

    /// How many writes that make an object visible at a key with this part were left before they were answered: what became
    /// of those nobody can know.
    pub fn unanswered(&self, key_part: &str) -> u32 {
        let plan = self.plan.lock().expect("no panic");
        plan.unanswered.iter().filter(|(key, _)| key.contains(key_part)).map(|(_, count)| count).sum()
    }

    /// The next call of `operation` that has no fault yet gets this one.
    pub fn next(&self, operation: Operation, fault: Fault) {
        self.plan.lock().expect("no panic").next.entry(operation).or_default().push_back(fault);
    }

    /// Every call of `operation` gets this fault, or none any more.
    pub fn always(&self, operation: Operation, fault: Option<Fault>) {
        let mut plan = self.plan.lock().expect("no panic");
        match fault {
            Some(fault) => drop(plan.always.insert(operation, fault)),
            None => drop(plan.always.remove(&operation)),
        }
    }

    /// Forgets all faults that are still to come.
    pub fn clear(&self) {
        let mut plan = self.plan.lock().expect("no panic");
        plan.next.clear();
        plan.always.clear();
    }

    /// Waits until `operation` was called `count` times.
    ///
    /// # Panics
    /// Where that does not happen in `PATIENCE`.
    pub async fn reached(&self, operation: Operation, count: usize) {
        let mut called = self.called.subscribe();
        while self.calls(operation) < count {
            let next = tokio::time::timeout(PATIENCE, called.changed()).await;
            let calls = self.calls(operation);
            assert!(next.is_ok(), "waited for {count} calls of {operation:?}, saw {calls} and then nothing");
        }
    }

    /// Waits until `count` calls of `operation` have come to their gate.
    ///
    /// # Panics
    /// Where that does not happen in `PATIENCE`.
    pub async fn at_gate(&self, operation: Operation, count: usize) {
        let mut called = self.called.subscribe();
        let there = || self.plan.lock().expect("no panic").at_gate.get(&operation).copied().unwrap_or(0);
        while there() < count {
            let next = tokio::time::timeout(PATIENCE, called.changed()).await;
            assert!(next.is_ok(), "waited for {count} of {operation:?} at the gate, saw {}", there());
        }
    }

    /// Puts and parts wait until the gate says true.
    pub fn gate_parts(&self, gate: &tokio::sync::watch::Receiver<bool>) {
        self.gate(Operation::Put, gate.clone());
        self.gate(Operation::UploadPart, gate.clone());
    }

    /// Calls of `operation` (a put, a part, the *answer* to a creation) wait until the gate says true.
    pub fn gate(&self, operation: Operation, gate: tokio::sync::watch::Receiver<bool>) {
        self.plan.lock().expect("no panic").gates.insert(operation, gate);
    }

    pub fn calls(&self, operation: Operation) -> usize {
        self.plan.lock().expect("no panic").calls.get(&operation).copied().unwrap_or(0)
    }

    /// Bytes of all parts and puts that the store has answered.
    pub fn part_bytes(&self) -> u64 {
        self.plan.lock().expect("no panic").part_bytes
    }

    /// Access key ids in the order of the calls.
    pub fn signers(&self) -> Vec<String> {
        self.signed().into_iter().map(|(access_key_id, _)| access_key_id).collect()
    }

    /// Access key ids and the objects' keys, in the order of the calls.
    pub fn signed(&self) -> Vec<(String, String)> {
        self.plan.lock().expect("no panic").signed.clone()
    }

    fn begin(&self, operation: Operation, signer: &Signer, target: &Target) -> Option<Fault> {
        let mut plan = self.plan.lock().expect("no panic");
        *plan.calls.entry(operation).or_default() += 1;
        plan.signed.push((signer.access_key_id.clone(), target.key.clone()));
        self.called.send_replace(());
        let next = plan.next.get_mut(&operation).and_then(VecDeque::pop_front);
        next.or_else(|| plan.always.get(&operation).copied())
    }

    async fn play<T>(
        &self,
        operation: Operation,
        signer: &Signer,
        target: &Target,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let publishes = matches!(operation, Operation::Put | Operation::Complete);
        let mut under_way = UnderWay(&self.plan, publishes.then_some(target.key.as_str()));
        let answer = match self.begin(operation, signer, target) {
            None => work.await,
            Some(Fault::Before(kind)) => Err(StoreError::not_done("faulty", kind, "refused on purpose")),
            Some(Fault::After(kind)) => {
                let lost = StoreError::unknown("faulty", kind, "reply lost on purpose");
                work.await.and(Err(lost))
            }
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Panic) => panic!("on purpose"),
        };
        under_way.1 = None;
        answer
    }

    async fn pass_gate(&self, operation: Operation) {
        let gate = self.plan.lock().expect("no panic").gates.get(&operation).cloned();
        if let Some(mut gate) = gate {
            *self.plan.lock().expect("no panic").at_gate.entry(operation).or_default() += 1;
            self.called.send_replace(());
            let _ = gate.wait_for(|open| *open).await;
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    // Not on this device, whatever is behind it.
    fn is_local(&self) -> bool {
        false
    }

    async fn put(&self, signer: &Signer, target: &Target, body: &PartBody) -> Result<Stored, StoreError> {
        self.pass_gate(Operation::Put).await;
        let stored = self.play(Operation::Put, signer, target, self.inner.put(signer, target, body)).await;
        self.plan.lock().expect("no panic").part_bytes += body.len;
        stored
    }

    async fn create_multipart(&self, signer: &Signer, target: &Target) -> Result<String, StoreError> {
        let work = self.inner.create_multipart(signer, target);
        let created = self.play(Operation::CreateMultipart, signer, target, work).await;
        self.pass_gate(Operation::CreateMultipart).await;
        created
    }

    async fn upload_part(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        number: u32,
        body: &PartBody,
    ) -> Result<PartReceipt, StoreError> {
        self.pass_gate(Operation::UploadPart).await;
        let work = self.inner.upload_part(signer, target, multipart_id, number, body);
        let receipt = self.play(Operation::UploadPart, signer, target, work).await;
        self.plan.lock().expect("no panic").part_bytes += body.len;
        receipt
    }

    async fn complete(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        parts: &[PartReceipt],
    ) -> Result<Stored, StoreError> {
        let work = self.inner.complete(signer, target, multipart_id, parts);
        self.play(Operation::Complete, signer, target, work).await
    }

    async fn abort(&self, signer: &Signer, target: &Target, multipart_id: &str) -> Result<(), StoreError> {
        self.play(Operation::Abort, signer, target, self.inner.abort(signer, target, multipart_id)).await
    }

    async fn list_parts(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
    ) -> Result<Vec<PartReceipt>, StoreError> {
        self.play(Operation::ListParts, signer, target, self.inner.list_parts(signer, target, multipart_id)).await
    }

    async fn head(&self, signer: &Signer, target: &Target) -> Result<Option<ObjectHead>, StoreError> {
        self.play(Operation::Head, signer, target, self.inner.head(signer, target)).await
    }
}
