//! hadal-tests
