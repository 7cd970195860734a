//! A tensor in a file, and how its elements are read.

use half::{bf16, f16};

use super::safetensors::TensorType;

/// A tensor as it lies in its file: little endian, row-major, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Its name in the checkpoint.
    pub name: &'a str,
    /// Type of the elements.
    pub dtype: TensorType,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// The elements.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// The elements as f32, exact; none for types that are no plain numbers.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let halves = || self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Some(match self.dtype {
            TensorType::F32 => {
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            TensorType::Bf16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            TensorType::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            // 2^(e-127): e is the exponent field of an f32, but for the two ends.
            TensorType::E8m0 => self.bytes.iter().map(|&e| e8m0(e)).collect(),
            _ => return None,
        })
    }

    /// Integers; none for other types.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        Some(match self.dtype {
            TensorType::I32 => {
                self.bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            TensorType::I64 => self
                .bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect(),
            _ => return None,
        })
    }
}

/// 255 is NaN, and 0 stands for 2^-127, which is subnormal in f32.
fn e8m0(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        e => f32::from_bits(u32::from(e) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_reads_at_odd_alignment() {
        let raw = [0u8, 0x80, 0x3f, 0, 0xc0];
        let shape = [2];
        let tensor = |dtype, bytes| Tensor { name: "x", dtype, shape: &shape, bytes };
        assert_eq!(tensor(TensorType::Bf16, &raw[1..]).to_f32(), Some(vec![1.0, -2.0]));
        assert_eq!(tensor(TensorType::E8m0, &[127, 128]).to_f32(), Some(vec![1.0, 2.0]));
        assert_eq!(tensor(TensorType::E8m0, &[0, 1]).to_f32(), Some(vec![2f32.powi(-127), 2f32.powi(-126)]));
        assert_eq!(tensor(TensorType::I32, &[1, 0, 0, 0]).to_i64(), Some(vec![1]));
        assert_eq!(tensor(TensorType::Other, &[1]).to_f32(), None);
    }
}
