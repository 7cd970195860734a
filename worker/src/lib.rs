//! hadal-worker
