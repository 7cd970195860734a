//! The numerics class: equal class means equal bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The hash of a model's configuration and weights' headers: what makes two checkpoints the same model.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

/// A hash over everything that decides the bits of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NumericsClass(pub [u8; 16]);

macro_rules! hex {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
hex!(Fingerprint);
hex!(NumericsClass);

/// A name that none of the choices has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}; choose one of {choices}")]
pub struct UnknownName {
    /// What was to be named.
    pub what: &'static str,
    /// The unknown name.
    pub name: String,
    /// The known ones.
    pub choices: String,
}

macro_rules! named {
    ($(#[$doc:meta])* $type:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type { $($(#[$vdoc])* #[serde(rename = $name)] $variant),+ }
        impl $type {
            /// Every choice.
            pub const ALL: &[$type] = &[$($type::$variant),+];
            /// The name on the command line and in layouts.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
        impl FromStr for $type {
            type Err = UnknownName;
            fn from_str(s: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|v| v.name() == s).ok_or_else(|| UnknownName {
                    what: $what,
                    name: s.to_owned(),
                    choices: Self::ALL.iter().map(|v| v.name()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

named! {
    /// The type in which activations enter products.
    Dtype, "dtype" {
        /// Exact binary32 activations.
        F32 = "f32",
        /// Activations rounded to bfloat16 before a product; sums in f32.
        Bf16 = "bf16",
    }
}

named! {
    /// How cache rows are encoded; with a model's shape it gives the layout.
    KvEncoding, "cache encoding" {
        /// Exact, for the oracle.
        F32 = "f32",
        /// bfloat16 rows.
        Bf16 = "bf16",
        /// The records of FlashMLA and DeepGEMM.
        Fp8 = "fp8",
        /// Index keys of 8-bit integers, which processors multiply fastest; bfloat16 latents.
        Int8Index = "int8-index",
    }
}

/// All that decides the bits of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    /// The model.
    pub fingerprint: Fingerprint,
    /// Type of the activations.
    pub dtype: Dtype,
    /// Name of the cache layout.
    pub layout: String,
    /// Name of the kernel path (`avx512`, `avx2`, `portable`, `sm90a`, `sim`, ...).
    pub kernels: String,
    /// Version of the arithmetic; raised with every change of bits.
    pub version: u32,
    /// Encoding of rows on the expert plane.
    pub expert_rows: String,
}

impl Numerics {
    /// The class. Fields are length-prefixed, so that no two different sets run into one another.
    pub fn class(&self) -> NumericsClass {
        let mut hasher = blake3::Hasher::new_derive_key("hadal v1 numerics class");
        hasher.update(&self.fingerprint.0);
        for field in [self.dtype.name(), &self.layout, &self.kernels, &self.expert_rows] {
            hasher.update(&(field.len() as u64).to_le_bytes()).update(field.as_bytes());
        }
        hasher.update(&self.version.to_le_bytes());
        let mut out = [0; 16];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        NumericsClass(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_changes_the_class() {
        let base = Numerics {
            fingerprint: Fingerprint([1; 16]),
            dtype: Dtype::F32,
            layout: "a".into(),
            kernels: "b".into(),
            version: 1,
            expert_rows: "f32".into(),
        };
        let others = [
            Numerics { fingerprint: Fingerprint([2; 16]), ..base.clone() },
            Numerics { dtype: Dtype::Bf16, ..base.clone() },
            Numerics { layout: "ab".into(), kernels: String::new(), ..base.clone() },
            Numerics { version: 2, ..base.clone() },
            Numerics { expert_rows: "bf16".into(), ..base.clone() },
        ];
        assert!(others.iter().all(|o| o.class() != base.class()));
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "fp4".parse::<KvEncoding>().unwrap_err();
        assert!(error.to_string().contains("f32, bf16, fp8, int8-index"));
    }
}
