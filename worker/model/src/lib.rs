//! hadal-model
