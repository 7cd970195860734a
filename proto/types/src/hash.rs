//! Chain hashes: the identity of a block, which covers every token before it.
//!
//! The key of the hash is drawn from the numerics class, the kind of attention and the tenant's salt, so equal hashes
//! mean equal cache bytes, and no tenant can probe for another's prompts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::attention::Attention;
use crate::geometry::BLOCK_TOKENS;
use crate::numerics::NumericsClass;

/// 128 bits of keyed BLAKE3 over a block and all before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 16]);

/// A text that is no chain hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a chain hash is 16 bytes (32 hexadecimal digits); got {0}")]
pub struct ParseHashError(pub String);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainHash {
    type Err = ParseHashError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParseHashError(s.to_owned());
        let digits: Vec<u8> =
            s.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>().ok_or_else(bad)?;
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect();
        (s.len() == 32).then_some(bytes).and_then(|b| b.try_into().ok()).map(ChainHash).ok_or_else(bad)
    }
}

impl TryFrom<&[u8]> for ChainHash {
    type Error = ParseHashError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(ChainHash).map_err(|_| ParseHashError(format!("{} bytes", bytes.len())))
    }
}

/// Where chains start: a numerics class, a salt and a kind of attention.
#[derive(Clone, PartialEq, Eq)]
pub struct ChainRoot([u8; 32]);

impl fmt::Debug for ChainRoot {
    // The key is derived from a tenant's salt, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChainRoot(..)")
    }
}

impl ChainRoot {
    /// The root of all chains of one class, one tenant's salt (empty for none) and one kind of attention.
    pub fn new(class: NumericsClass, salt: &[u8], attention: Attention) -> Self {
        // A context of its own: whatever salt a tenant thinks of, it cannot come upon the other kind's root.
        let mut hasher = blake3::Hasher::new_derive_key(match attention {
            Attention::Sparse => "hadal v1 chain hash root",
            Attention::Dense => "hadal v1 chain hash root of dense attention",
        });
        hasher.update(&class.0).update(salt);
        Self(*hasher.finalize().as_bytes())
    }

    /// The hash of a block after `parent` (none for the first).
    pub fn block(&self, parent: Option<ChainHash>, tokens: &[u32]) -> ChainHash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        if let Some(parent) = parent {
            hasher.update(&parent.0);
        }
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        let mut out = [0; 16];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ChainHash(out)
    }

    /// The hashes of the full blocks of a sequence; a partial last block has none.
    pub fn chain(&self, tokens: &[u32]) -> Vec<ChainHash> {
        let mut parent = None;
        tokens
            .chunks_exact(BLOCK_TOKENS as usize)
            .map(|block| {
                let hash = self.block(parent, block);
                parent = Some(hash);
                hash
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(salt: &[u8]) -> ChainRoot {
        ChainRoot::new(NumericsClass([7; 16]), salt, Attention::Sparse)
    }

    #[test]
    fn only_full_blocks_have_hashes_and_each_covers_all_before_it() {
        let tokens: Vec<u32> = (0..200).collect();
        let chain = root(b"").chain(&tokens);
        assert_eq!(chain.len(), 3);
        let mut other = tokens.clone();
        other[0] = 9;
        let changed = root(b"").chain(&other);
        assert!(chain.iter().zip(&changed).all(|(a, b)| a != b));
        assert_eq!(root(b"").chain(&tokens[..128]), chain[..2]);
    }

    #[test]
    fn another_salt_class_or_attention_gives_other_hashes() {
        let tokens: Vec<u32> = (0..64).collect();
        assert_ne!(root(b"a").chain(&tokens), root(b"b").chain(&tokens));
        let class = ChainRoot::new(NumericsClass([8; 16]), b"a", Attention::Sparse);
        assert_ne!(root(b"a").chain(&tokens), class.chain(&tokens));
        let dense = ChainRoot::new(NumericsClass([7; 16]), b"a", Attention::Dense);
        assert_ne!(root(b"a").chain(&tokens), dense.chain(&tokens));
    }

    #[test]
    fn hashes_round_trip_as_text() {
        let hash = root(b"").block(None, &[1, 2, 3]);
        assert_eq!(hash.to_string().parse::<ChainHash>().unwrap(), hash);
        assert!("xyz".parse::<ChainHash>().is_err());
        assert!("é".repeat(16).parse::<ChainHash>().is_err());
    }
}
