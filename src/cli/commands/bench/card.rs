//! What a GPU can do at best, by the operations of the tensor library.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor};

/// Rows and columns of the matrices that are multiplied.
const SIDE: usize = 8192;
/// Numbers in the table that is copied: far more than the card's caches hold.
const TABLE: usize = 1 << 28;
/// Runs of each kind, of which the best counts.
const RUNS: usize = 5;

/// The roofline of a GPU.
pub struct CardLimits {
    /// Operations on bf16 numbers; a product and a sum are two.
    pub bf16_ops_per_s: f64,
    /// Read from its memory, as fast as it is copied.
    pub read_bytes_per_s: f64,
}

impl CardLimits {
    /// Takes some milliseconds and a gigabyte of the card's memory.
    ///
    /// # Errors
    /// When the device fails.
    pub fn measure(device: &Device) -> Result<Self> {
        let matrix = Tensor::randn(0f32, 1.0, (SIDE, SIDE), device)?.to_dtype(DType::BF16)?;
        let product = best(device, || matrix.matmul(&matrix))?;
        let table = Tensor::zeros(TABLE, DType::BF16, device)?;
        let copy = best(device, || table.copy())?;
        let copied = 2 * TABLE * DType::BF16.size_in_bytes(); // each is read and written
        Ok(Self {
            bf16_ops_per_s: 2.0 * (SIDE as f64).powi(3) / product.as_secs_f64(),
            read_bytes_per_s: copied as f64 / copy.as_secs_f64(),
        })
    }
}

fn best(device: &Device, mut work: impl FnMut() -> Result<Tensor>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        device.synchronize()?;
        let started = Instant::now();
        work()?;
        device.synchronize()?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}
