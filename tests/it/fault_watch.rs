//! A store that notes which writes their caller left before they were answered: what became of those nobody can know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate::store::{ObjectHead, ObjectStore, PartBody, PartReceipt, Profile, Signer, StoreError, Stored, Target};

/// How many writes that make an object visible were left, by key.
#[derive(Debug, Clone, Default)]
pub struct Left(Arc<Mutex<BTreeMap<String, u32>>>);

impl Left {
    /// At keys with this part.
    pub fn at(&self, key_part: &str) -> u32 {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.iter().filter(|(key, _)| key.contains(key_part)).map(|(_, count)| count).sum()
    }

    /// Notes the key unless the work comes to an end.
    async fn watch<T>(&self, target: &Target, work: impl Future<Output = T>) -> T {
        let mut guard = Guard { left: self, key: Some(target.key.clone()) };
        let done = work.await;
        guard.key = None;
        done
    }
}

struct Guard<'a> {
    left: &'a Left,
    key: Option<String>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            *self.left.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        }
    }
}

/// The store behind it, watched.
#[derive(Debug)]
pub struct Watched {
    pub inner: Arc<dyn ObjectStore>,
    pub left: Left,
}

#[async_trait::async_trait]
impl ObjectStore for Watched {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    async fn put(&self, signer: &Signer, target: &Target, body: &PartBody) -> Result<Stored, StoreError> {
        self.left.watch(target, self.inner.put(signer, target, body)).await
    }

    async fn create_multipart(&self, signer: &Signer, target: &Target) -> Result<String, StoreError> {
        self.inner.create_multipart(signer, target).await
    }

    async fn upload_part(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        number: u32,
        body: &PartBody,
    ) -> Result<PartReceipt, StoreError> {
        self.inner.upload_part(signer, target, multipart_id, number, body).await
    }

    async fn complete(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
        parts: &[PartReceipt],
    ) -> Result<Stored, StoreError> {
        self.left.watch(target, self.inner.complete(signer, target, multipart_id, parts)).await
    }

    async fn abort(&self, signer: &Signer, target: &Target, multipart_id: &str) -> Result<(), StoreError> {
        self.inner.abort(signer, target, multipart_id).await
    }

    async fn list_parts(
        &self,
        signer: &Signer,
        target: &Target,
        multipart_id: &str,
    ) -> Result<Vec<PartReceipt>, StoreError> {
        self.inner.list_parts(signer, target, multipart_id).await
    }

    async fn head(&self, signer: &Signer, target: &Target) -> Result<Option<ObjectHead>, StoreError> {
        self.inner.head(signer, target).await
    }
}
