//! The core as a whole, with a fake engine that keeps its state in the pages it is given.

mod behaviour;
mod engine;
mod pace;
mod pair;
mod rig;
mod schedules;
mod transfer;
