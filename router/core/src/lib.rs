//! hadal-router-core
