//! The description as text.
