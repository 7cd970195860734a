//! hadal-coordinator-core
