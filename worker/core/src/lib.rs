//! hadal-worker-core
