//! Integration tests: one binary, one file per subject.
#![allow(clippy::unwrap_used)]

mod house;
