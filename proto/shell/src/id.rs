//! Random ids, from the operating system by way of the TLS library's generator.

use hadal_types::{Incarnation, LeaseId};

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes; is /dev/urandom missing in this container?")]
pub struct NoRandom;

/// `N` random bytes.
///
/// # Errors
/// When the operating system gives none.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// What tells this run of a process from every other one.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn incarnation() -> Result<Incarnation, NoRandom> {
    Ok(Incarnation(u64::from_le_bytes(bytes()?)))
}

/// An id that nobody can guess, for a lease.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn lease_id() -> Result<LeaseId, NoRandom> {
    Ok(LeaseId(u128::from_le_bytes(bytes()?)))
}

/// An id for a request that brought none: 32 hexadecimal digits.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn request_id() -> Result<String, NoRandom> {
    Ok(format!("{:032x}", u128::from_le_bytes(bytes()?)))
}

/// A seed for a request that names none.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn seed() -> Result<u64, NoRandom> {
    Ok(u64::from_le_bytes(bytes()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        assert_ne!(incarnation().unwrap(), incarnation().unwrap());
        assert_ne!(lease_id().unwrap(), lease_id().unwrap());
        assert_eq!(request_id().unwrap().len(), 32);
    }
}
