//! Reads tensors by name. Before anything is packed, every tensor is looked up and its shape and type are compared
//! with what the configuration promises, so that a wrong checkpoint fails at once, by the tensor's name.

use std::cell::Cell;
use std::ops::Range;

use hadal_kernels::{Ctx, Embedding, Linear, PackError, PathUnavailable, WeightRef, WeightSlice};

use super::spec;
use crate::config::{Config, Quantization};
use crate::files::{Files, Tensor, TensorType};
use crate::model::{LoadOptions, Progress};

/// Why a checkpoint cannot be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// A tensor that is not there.
    #[error(
        "tensor {tensor} is missing, which config.json ({architecture}) promises; is a shard missing from the index?"
    )]
    Missing {
        /// The tensor.
        tensor: String,
        /// The architecture that needs it.
        architecture: &'static str,
    },
    /// A tensor of another shape.
    #[error(
        "tensor {tensor} has shape {found:?}, but config.json promises {expected:?}; they belong to different models"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// As config.json has it.
        expected: Vec<usize>,
        /// As the shard has it.
        found: Vec<usize>,
    },
    /// A tensor of a type that its use does not allow.
    #[error("tensor {tensor} of shape {shape:?} has type {found}, but must be {expected}")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type.
        found: &'static str,
        /// Types allowed.
        expected: &'static str,
    },
    /// fp8 weights in a model that is not quantised.
    #[error("tensor {tensor} is F8_E4M3, but config.json has no quantization_config that says how its scales lie")]
    NotQuantised {
        /// The tensor.
        tensor: String,
    },
    /// Numbers that the kernels refuse.
    #[error("tensor {tensor} cannot be used: {source}")]
    Pack {
        /// The tensor.
        tensor: String,
        /// Why.
        source: PackError,
    },
    /// A kernel path that this machine does not have.
    #[error(transparent)]
    Path(#[from] PathUnavailable),
}

const PLAIN: &str = "BF16, F32 or F16";

/// A tensor in the form that packing takes: read, or left where it lies.
enum Values {
    F32(Vec<f32>),
    Bf16,
    Fp8 { scales: Vec<f32>, block: [usize; 2] },
}

/// Reads tensors of one checkpoint and counts what it packed.
pub(super) struct Loader<'a> {
    files: &'a Files,
    architecture: &'static str,
    quantization: Option<Quantization>,
    options: &'a LoadOptions<'a>,
    /// Packing runs on the kernels' threads.
    ctx: Ctx,
    read: Cell<u64>,
    packed: Cell<u64>,
    total: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(files: &'a Files, config: &Config, options: &'a LoadOptions<'a>) -> Result<Self, LoadError> {
        let mut loader = Self {
            files,
            architecture: config.architecture.name,
            quantization: config.quantization,
            options,
            ctx: options.context(options.dtype)?,
            read: Cell::new(0),
            packed: Cell::new(0),
            total: 0,
        };
        for spec in spec::tensors(config) {
            loader.total += loader.check(&spec)?;
        }
        Ok(loader)
    }

    /// Compares one tensor, and its scales, with its specification. Returns the bytes of both.
    fn check(&self, spec: &spec::Spec) -> Result<u64, LoadError> {
        let tensor = self.tensor(&spec.name)?;
        shape(&tensor, &spec.shape)?;
        let allowed = match tensor.dtype {
            TensorType::Bf16 | TensorType::F32 | TensorType::F16 => true,
            TensorType::E4m3 => spec.quantised,
            _ => false,
        };
        if !allowed {
            let expected = if spec.quantised { "BF16, F32, F16 or F8_E4M3" } else { PLAIN };
            return Err(wrong_type(&tensor, expected));
        }
        let mut bytes = tensor.bytes.len();
        if tensor.dtype == TensorType::E4m3 {
            bytes += self.scales(&tensor)?.0.bytes.len();
        }
        Ok(bytes as u64)
    }

    /// Bytes of everything packed so far.
    pub(super) fn packed_bytes(&self) -> u64 {
        self.packed.get()
    }

    pub(super) fn report(&self) {
        (self.options.progress)(Progress { bytes: self.read.get(), bytes_total: self.total });
    }

    /// A norm or bias.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name)?;
        let values = tensor.to_f32().ok_or_else(|| wrong_type(&tensor, PLAIN))?;
        self.count(&tensor, 4 * values.len());
        Ok(values)
    }

    /// The weights of `name.weight`.
    pub(super) fn linear(&self, name: &str) -> Result<Linear, LoadError> {
        self.matrix(&format!("{name}.weight"))
    }

    /// The weights of a tensor by its full name.
    pub(super) fn matrix(&self, name: &str) -> Result<Linear, LoadError> {
        let tensor = self.tensor(name)?;
        let [n, k] = matrix_shape(&tensor)?;
        let values = self.values(&tensor)?;
        let slice = WeightSlice { weight: weight(&values, &tensor), shape: [n, k], rows: 0..n, transposed: false };
        let linear = Linear::pack_slice(&self.ctx, &slice)
            .map_err(|source| LoadError::Pack { tensor: name.to_owned(), source })?;
        self.count(&tensor, linear.bytes());
        Ok(linear)
    }

    /// Slices of rows of `name.weight`, perhaps transposed, one product each.
    pub(super) fn split(
        &self,
        name: &str,
        slices: impl Iterator<Item = Range<usize>>,
        transposed: bool,
    ) -> Result<Vec<Linear>, LoadError> {
        let name = format!("{name}.weight");
        let tensor = self.tensor(&name)?;
        let shape = matrix_shape(&tensor)?;
        let values = self.values(&tensor)?;
        slices
            .map(|rows| {
                let weight = weight(&values, &tensor);
                let linear = Linear::pack_slice(&self.ctx, &WeightSlice { weight, shape, rows, transposed })
                    .map_err(|source| LoadError::Pack { tensor: name.clone(), source })?;
                self.count(&tensor, linear.bytes());
                Ok(linear)
            })
            .collect()
    }

    pub(super) fn embedding(&self, name: &str) -> Result<Embedding, LoadError> {
        let tensor = self.tensor(name)?;
        let [tokens, width] = matrix_shape(&tensor)?;
        let values = self.values(&tensor)?;
        let embedding = Embedding::new(weight(&values, &tensor), tokens, width)
            .map_err(|source| LoadError::Pack { tensor: name.to_owned(), source })?;
        self.count(&tensor, embedding.bytes());
        Ok(embedding)
    }

    fn count(&self, tensor: &Tensor<'_>, packed: usize) {
        // Of a tensor that is packed in slices, each counts for what was packed of it.
        let read = (tensor.bytes.len() as u64).min(packed as u64);
        self.read.set((self.read.get() + read).min(self.total));
        self.packed.set(self.packed.get() + packed as u64);
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'a>, LoadError> {
        self.files
            .tensor(name)
            .ok_or_else(|| LoadError::Missing { tensor: name.to_owned(), architecture: self.architecture })
    }

    fn values(&self, tensor: &Tensor<'_>) -> Result<Values, LoadError> {
        match tensor.dtype {
            TensorType::Bf16 => Some(Values::Bf16),
            TensorType::E4m3 => {
                let (scales, block) = self.scales(tensor)?;
                scales.to_f32().map(|scales| Values::Fp8 { scales, block })
            }
            _ => tensor.to_f32().map(Values::F32),
        }
        .ok_or_else(|| wrong_type(tensor, PLAIN))
    }

    /// The scales of an fp8 tensor, one for each block, the last of which may be partial.
    fn scales(&self, tensor: &Tensor<'_>) -> Result<(Tensor<'a>, [usize; 2]), LoadError> {
        let Some(Quantization { block }) = self.quantization else {
            return Err(LoadError::NotQuantised { tensor: tensor.name.to_owned() });
        };
        let [n, k] = matrix_shape(tensor)?;
        let scales = self.tensor(&format!("{}_scale_inv", tensor.name))?;
        shape(&scales, &[n.div_ceil(block[0]), k.div_ceil(block[1])])?;
        match scales.dtype {
            TensorType::F32 | TensorType::Bf16 | TensorType::E8m0 => Ok((scales, block)),
            _ => Err(wrong_type(&scales, "F32, BF16 or F8_E8M0")),
        }
    }
}

fn weight<'v>(values: &'v Values, tensor: &Tensor<'v>) -> WeightRef<'v> {
    match values {
        Values::F32(v) => WeightRef::F32(v),
        Values::Bf16 => WeightRef::Bf16Bytes(tensor.bytes.as_chunks().0),
        Values::Fp8 { scales, block } => WeightRef::Fp8 { data: tensor.bytes, scales, block: *block },
    }
}

fn matrix_shape(tensor: &Tensor<'_>) -> Result<[usize; 2], LoadError> {
    tensor.shape.try_into().map_err(|_| LoadError::Shape {
        tensor: tensor.name.to_owned(),
        expected: vec![0, 0],
        found: tensor.shape.to_vec(),
    })
}

fn shape(tensor: &Tensor<'_>, expected: &[usize]) -> Result<(), LoadError> {
    if tensor.shape == expected {
        return Ok(());
    }
    Err(LoadError::Shape { tensor: tensor.name.to_owned(), expected: expected.to_vec(), found: tensor.shape.to_vec() })
}

fn wrong_type(tensor: &Tensor<'_>, expected: &'static str) -> LoadError {
    LoadError::Type {
        tensor: tensor.name.to_owned(),
        shape: tensor.shape.to_vec(),
        found: tensor.dtype.name(),
        expected,
    }
}
