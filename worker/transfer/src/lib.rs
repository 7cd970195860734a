//! hadal-transfer
