//! What the device's way out means for uploads. Promises that the loss of the last one is seen at once, that whoever waited
//! for one tries when it is there, and that what must not go over a metered link stops at the end of its parts in flight.

use std::collections::BTreeSet;

use super::core::{Core, lock};
use super::scheduler::PRIORITIES;

impl Core {
    /// These interfaces lead off the device now.
    pub(super) fn network_changed(&self, interfaces: Vec<String>) {
        let is_there = !interfaces.is_empty();
        {
            // Before anything is read that decides: an older answer must not come after a newer one.
            let mut queue = self.queue();
            let was_there = lock(&self.network).replace(interfaces).is_some_and(|before| !before.is_empty());
            if is_there != was_there {
                self.break_failing();
            }
            if is_there {
                queue.wake_link();
            } else if was_there {
                // A store on this network may be reached all the same: one upload finds out, and the others after it.
                let until = self.clock.boot() + self.backoff(0);
                for destination in self.destinations().iter().filter(|destination| !destination.store.is_local()) {
                    queue.close(&destination.name, until);
                }
            }
        }
        self.follow_meter();
        self.refresh_all();
        self.wake.notify_one();
    }

    /// Makes of the way out and the configuration what the queue does.
    pub(super) fn follow_meter(&self) {
        // Before anything is read that decides: an older answer must not come after a newer one.
        let mut queue = self.queue();
        let config = self.config();
        let is_metered =
            lock(&self.network).iter().flatten().any(|interface| fits_any(&config.metered_interfaces, interface));
        let goes = |level: usize| config.metered_priorities.iter().any(|priority| *priority as usize == level);
        let waits: [bool; PRIORITIES] = std::array::from_fn(|level| is_metered && !goes(level));
        let local: BTreeSet<String> = self
            .destinations()
            .into_iter()
            .filter(|destination| destination.store.is_local())
            .map(|destination| destination.name)
            .collect();
        queue.set_metered(waits, local);
        self.rest(|id| queue.is_metered(id));
    }
}

/// `*` at the end of a pattern stands for any rest of a name.
fn fits_any(patterns: &[String], interface: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => interface.starts_with(start),
        None => interface == pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::fits_any;

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        let patterns = ["wwan*".to_owned(), "usb0".to_owned()];
        assert!(fits_any(&patterns, "wwan0") && fits_any(&patterns, "usb0"));
        assert!(!fits_any(&patterns, "usb01") && !fits_any(&patterns, "eth0") && !fits_any(&[], "wwan0"));
    }
}
