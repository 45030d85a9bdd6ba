//! The room as a whole: real journal, spool and workers over a directory store that fails on purpose.

#![allow(clippy::unwrap_used)]

mod accepting;
mod attempts;
mod early;
mod fixture;
mod lifetimes;
mod multiparts;
mod networks;
mod owners;
mod pausing;
mod recovering;
mod sending;
mod watching;
