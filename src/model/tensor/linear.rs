//! Matrix products of tensors with weights: the only place here that knows how weights are stored.

use std::borrow::Cow;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{Result, Tensor};

use super::super::weight::{Affine, Weight};
use super::array::Array;

/// `y = x · Wᵀ + b`
pub(super) struct Linear {
    weights: Vec<Weight>, // their outputs side by side
    /// `[outputs]`
    pub bias: Option<Array>,
}

impl Linear {
    pub fn new(affine: Affine) -> Self {
        Self {
            weights: vec![affine.weight],
            bias: affine.bias.map(Array::from),
        }
    }

    /// Several that have their input in common, and all a bias or none: one product for all that
    /// are neighbours and stored alike.
    pub fn stacked(affines: Vec<Affine>) -> Result<Self> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let count = affines.len();
        for Affine { weight, bias } in affines {
            biases.extend(bias);
            let weight = match weights.pop() {
                None => weight,
                Some(last) => match stack(&last, &weight)? {
                    Some(both) => both,
                    None => {
                        weights.push(last);
                        weight
                    }
                },
            };
            weights.push(weight);
        }
        let bias = match biases.len() {
            0 => None,
            all if all == count => Some(Tensor::cat(&biases, 0)?.into()),
            some => candle_core::bail!("{some} of {count} projections have a bias"),
        };
        Ok(Self { weights, bias })
    }

    /// `[T, inputs]` to `[T, outputs]`
    pub fn forward(&self, xs: &Array) -> Result<Array> {
        let products = self.weights.iter().map(|weight| match weight {
            Weight::Dense(weight) if weight.dtype() == xs.dtype() => {
                xs.matmul_t(&weight.clone().into())
            }
            // Of 16 bits, beside others in blocks.
            Weight::Dense(weight) => xs
                .to_dtype(weight.dtype())?
                .matmul_t(&weight.clone().into())?
                .to_dtype(xs.dtype()),
            Weight::Packed(_) => candle_core::bail!("packed weights are for the CPU's own network"),
            Weight::Blocks(weight) => xs.matmul_blocks(weight),
        });
        let ys = Array::cat(&products.collect::<Result<Vec<_>>>()?, 1)?;
        match &self.bias {
            Some(bias) => ys.add(bias),
            None => Ok(ys),
        }
    }
}

/// The rows of one matrix and then those of another, if they are stored alike.
fn stack(above: &Weight, below: &Weight) -> Result<Option<Weight>> {
    match (above, below) {
        (Weight::Dense(above), Weight::Dense(below)) if above.dtype() == below.dtype() => {
            Tensor::cat(&[above, below], 0).map(|both| Some(Weight::Dense(both)))
        }
        (Weight::Blocks(QMatMul::QTensor(above)), Weight::Blocks(QMatMul::QTensor(below)))
            if above.dtype() == below.dtype() =>
        {
            // Blocks lie row by row.
            let rows = above.shape().dims2()?.0 + below.shape().dims2()?.0;
            let bytes = [above.data()?, below.data()?].concat();
            let blocks = QStorage::from_data(Cow::Owned(bytes), &above.device(), above.dtype())?;
            let both = QTensor::new(blocks, (rows, above.shape().dims2()?.1))?;
            QMatMul::from_qtensor(both).map(|both| Some(Weight::Blocks(both)))
        }
        _ => Ok(None),
    }
}
