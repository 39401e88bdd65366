//! The embedding table: ids to vectors.

use candle_core::{DType, Result, Tensor};

use crate::weights::StoredTensor;

pub(super) enum Embedding {
    /// In memory. `[V, D]`
    Table(Tensor),
    /// In the mapped file, from which each canvas takes its rows: half a gigabyte at 7B that need
    /// not be in memory twice.
    Stored(StoredTensor),
}

impl Embedding {
    /// The vectors of some ids, as float32. `[T, D]`
    pub fn rows(&self, ids: &[u32]) -> Result<Vec<f32>> {
        match self {
            Self::Table(table) => {
                let rows = table.index_select(&Tensor::new(ids, table.device())?, 0)?;
                rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
            }
            Self::Stored(table) => table.rows(ids),
        }
    }
}
