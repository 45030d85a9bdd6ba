//! `tidegate failpoints`: where a test may have the daemon crash. Only in builds with the feature `failpoints`.

use crate::failpoint::Step;

/// Prints every point's name.
pub fn run() {
    Step::points().for_each(|point| println!("{point}"));
}
