//! hadal-kernels
