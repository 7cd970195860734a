//! hadal-shell
