//! The embedding table: ids to vectors.

use candle_core::{Device, Result, Tensor};

use crate::weights::StoredTensor;

pub(super) enum Embedding {
    /// In memory. `[V, D]`
    Table(Tensor),
    /// In the mapped file, from which each canvas takes its rows: half a gigabyte at 7B that need
    /// not be in memory twice.
    Stored(StoredTensor),
}

impl Embedding {
    /// The vectors of some ids. `[T, D]`
    pub fn forward(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        match self {
            Self::Table(table) => table.index_select(&Tensor::new(ids, device)?, 0),
            Self::Stored(table) => table.rows(ids)?.to_device(device),
        }
    }
}
