//! The core as a whole, with a fake engine that keeps its state in the pages it is given.

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod drafts;
pub(crate) mod engine;
#[cfg(test)]
mod pace;
mod pair;
mod rig;
pub(crate) mod schedules;
#[cfg(test)]
mod transfer;
