//! hadal-coordinator
