//! The places on the wire, first come, first served: as many as [`Pace`] says, and one kept for small objects, which must
//! not wait until parts of large ones are through. Promises that a place comes back however its transfer ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::pace::Pace;
use crate::clock::Clock;

/// The places.
#[derive(Debug)]
pub(super) struct Wire {
    clock: Clock,
    places: Semaphore,
    /// For small objects, where all others are taken.
    kept: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Places that there are, taken or free.
    there: usize,
    /// Taken places that are not given back when their transfers end.
    owed: usize,
}

/// One place.
#[derive(Debug)]
pub(super) struct Place<'a> {
    wire: &'a Wire,
    permit: Option<SemaphorePermit<'a>>,
    is_kept: bool,
}

impl Wire {
    /// `most` places, the kept one among them; where there are only two, none is kept: a large upload would have one part
    /// at a time.
    pub(super) fn new(clock: Clock, most: usize) -> Self {
        let kept = usize::from(most > 2);
        let pace = Pace::new(most - kept);
        let there = pace.limit();
        Self {
            clock,
            places: Semaphore::new(there),
            kept: Semaphore::new(kept),
            state: Mutex::new(State { pace, there, owed: 0 }),
        }
    }

    /// How many there are now for everybody.
    pub(super) fn limit(&self) -> usize {
        self.state().pace.limit()
    }

    /// Bytes per second that the link has moved.
    pub(super) fn goodput(&self) -> Option<u64> {
        self.state().pace.goodput()
    }

    /// Waits for a place. Dropping the future gives its turn up.
    pub(super) async fn take(&self, is_small: bool) -> Place<'_> {
        let (permit, is_kept) = match self.places.try_acquire() {
            Ok(permit) => (Some(permit), false),
            Err(_) => {
                self.state().pace.wanted();
                // The semaphores are never closed.
                tokio::select! {
                    permit = self.places.acquire() => (permit.ok(), false),
                    permit = self.kept.acquire(), if is_small => (permit.ok(), true),
                }
            }
        };
        self.state().pace.begin(self.clock.boot());
        Place { wire: self, permit, is_kept }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters only: a panic elsewhere cannot leave them half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes as many places as the pace says.
    fn follow(&self, state: &mut State) {
        let limit = state.pace.limit();
        if limit > state.there {
            let more = limit - state.there;
            let kept = more.min(state.owed);
            state.owed -= kept;
            self.places.add_permits(more - kept);
        } else {
            let fewer = state.there - limit;
            state.owed += fewer - self.places.forget_permits(fewer);
        }
        state.there = limit;
    }
}

impl Place<'_> {
    /// The store has taken `bytes`.
    pub(super) fn delivered(&self, bytes: u64) {
        let mut state = self.wire.state();
        state.pace.delivered(self.wire.clock.boot(), bytes);
        self.wire.follow(&mut state);
    }

    /// The store asks for patience, or the link lost the transfer.
    pub(super) fn too_much(&self) {
        let mut state = self.wire.state();
        state.pace.too_much(self.wire.clock.boot());
        self.wire.follow(&mut state);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        state.pace.end(self.wire.clock.boot());
        if !self.is_kept
            && state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn places_follow_the_pace_down_and_none_is_lost() {
        let wire = Arc::new(Wire::new(Clock::manual(std::time::UNIX_EPOCH), 5));
        let (first, second, third) = (wire.take(false).await, wire.take(false).await, wire.take(false).await);
        let _fourth = wire.take(false).await;
        first.too_much();
        assert_eq!((wire.limit(), wire.places.available_permits()), (2, 0));
        let waiting = tokio::spawn({
            let wire = Arc::clone(&wire);
            async move { drop(wire.take(false).await) }
        });
        drop((first, second));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "two were too many");
        drop(third);
        waiting.await.expect("has its turn");
        assert_eq!(wire.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn two_places_are_everybodys() {
        let wire = Wire::new(Clock::manual(std::time::UNIX_EPOCH), 2);
        assert_eq!((wire.limit(), wire.places.available_permits(), wire.kept.available_permits()), (2, 2, 0));
    }

    #[tokio::test]
    async fn a_small_object_does_not_wait_for_parts() {
        let wire = Wire::new(Clock::manual(std::time::UNIX_EPOCH), 3);
        let _parts = (wire.take(false).await, wire.take(false).await);
        let small = wire.take(true).await;
        assert!(small.is_kept, "the parts have the others");
        let mut next = std::pin::pin!(wire.take(true));
        tokio::select! {
            biased;
            _ = &mut next => panic!("one place is kept, not two"),
            () = tokio::task::yield_now() => {}
        }
        drop(small);
        assert!(next.await.is_kept);
    }
}
