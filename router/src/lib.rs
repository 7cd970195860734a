//! hadal-router
