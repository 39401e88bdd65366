//! What a CUDA card is asked beside the tensor library.

mod attention;
mod kernels;
mod summary;

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, result, sys};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

pub(super) use self::attention::{Kept, MOST_CANVASES, attend, store_heads};
pub(super) use self::kernels::{add_norm, swiglu};
pub(super) use self::summary::summaries;

/// Memory that is left for activations and cached keys and values.
const RESERVE: u64 = 1_000_000_000;

/// The card of this number. All threads share one queue of work on it: the library's usual one for
/// each thread would let a thread read what another is still writing.
///
/// # Errors
/// When the card or the driver does not answer.
#[allow(unsafe_code)]
pub(super) fn open(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    if let Device::Cuda(card) = &device {
        // SAFETY: what is put into the only queue runs in this order, so that nothing is read
        // before it is written or freed before it is read.
        unsafe { card.disable_event_tracking() };
        let _ = keep_freed_memory(card); // a driver without pools is only slower
    }
    Ok(device)
}

/// Lets the driver keep what is freed for the next forward, in place of giving it back whenever the
/// host waits for results.
#[allow(unsafe_code)]
fn keep_freed_memory(card: &CudaDevice) -> Result<()> {
    let mut threshold = u64::MAX;
    // SAFETY: the device is that of an open context, and the attribute is a cuuint64_t (CUDA driver
    // API, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), which is only read during the call.
    unsafe {
        let pool = result::device::get_mem_pool(card.cuda_stream().context().cu_device()).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).w()
    }
}

/// Memory that is free for weights.
pub(super) fn free_memory_bytes(card: &CudaDevice) -> Option<u64> {
    let (free, _total) = card.cuda_stream().context().mem_get_info().ok()?;
    Some((free as u64).saturating_sub(RESERVE))
}

/// Until the guard is dropped, shapes and strides that kernels are told are sent to the card once
/// each and not with every launch. Everything else that is uploaded meanwhile is kept as well, so
/// this is for stretches that upload nothing.
pub(super) fn keep_layouts(device: &Device) -> Option<impl Sized + use<>> {
    match device {
        Device::Cuda(card) => Some(card.enable_cuda_graph_htod_cache()),
        _ => None,
    }
}

/// Name, compute capability and memory.
pub(super) fn description(card: &CudaDevice) -> Option<String> {
    let stream = card.cuda_stream();
    let context = stream.context();
    let (major, minor) = context.compute_capability().ok()?;
    let (free, total) = context.mem_get_info().ok()?;
    let [free, total] = [free, total].map(|bytes| bytes as f64 / 1e9);
    let name = context.name().ok()?;
    Some(format!(
        "{name}, compute capability {major}.{minor}, {total:.1} GB, {free:.1} GB free"
    ))
}

/// Copies the numbers of a contiguous tensor on a card in the place of `numbers`; `false` of one
/// that is elsewhere, or of other than floating-point numbers.
///
/// # Errors
/// When the card fails.
pub(super) fn download(tensor: &Tensor, numbers: &mut Vec<f32>) -> Result<bool> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some(range)) = (&*storage, layout.contiguous_offsets()) else {
        return Ok(false);
    };
    match tensor.dtype() {
        DType::F32 => copy::<f32>(storage, range, numbers)?,
        DType::BF16 => copy::<bf16>(storage, range, numbers)?,
        DType::F16 => copy::<f16>(storage, range, numbers)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Numbers that each thread converts at a time.
const CHUNK: usize = 1 << 16;

fn copy<T>(storage: &CudaStorage, (start, end): (usize, usize), to: &mut Vec<f32>) -> Result<()>
where
    T: CudaDType + DeviceRepr + Copy + Sync,
    f32: From<T>,
{
    to.resize(end - start, 0.0);
    let from = storage.as_cuda_slice::<T>()?.slice(start..end);
    read_back(storage.device(), &from, |numbers: &[T]| {
        let chunks = to.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK));
        chunks.for_each(|(to, from)| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = f32::from(from);
            }
        });
    })
}

/// Shows what is in the card's memory, by way of the page-locked one. Any bytes have to be a `T`.
#[allow(unsafe_code)]
fn read_back<T: DeviceRepr>(
    card: &CudaDevice,
    from: &CudaView<'_, T>,
    show: impl FnOnce(&[T]),
) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    let stream = card.cuda_stream();
    let mut staging = STAGING.lock().unwrap_or_else(PoisonError::into_inner);
    stream.context().bind_to_thread().w()?;
    let start = staging.reserve(size_of::<T>() * from.len())?.cast::<T>();
    // SAFETY: so many numbers have room there, any bytes are one, and nobody else has the lock.
    let staged = unsafe { std::slice::from_raw_parts_mut(start, from.len()) };
    stream.memcpy_dtoh(from, staged).w()?;
    stream.synchronize().w()?;
    show(staged);
    Ok(())
}

/// Page-locked memory, into which the card copies at the bus's speed and without the processor; it
/// grows to what was needed most.
struct Staging {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory belongs to no thread; `PORTABLE` makes it page-locked for every context.
#[allow(unsafe_code)]
unsafe impl Send for Staging {}

static STAGING: Mutex<Staging> = Mutex::new(Staging {
    start: ptr::null_mut(),
    bytes: 0,
});

impl Staging {
    /// Memory for so many bytes; a context must be bound to this thread.
    #[allow(unsafe_code)]
    fn reserve(&mut self, bytes: usize) -> Result<*mut c_void> {
        if bytes > self.bytes {
            let old = std::mem::replace(&mut self.start, ptr::null_mut());
            self.bytes = 0;
            // SAFETY: what is freed was allocated below, and no copy into it is under way: each is
            // waited for. What is allocated is zeroed, so that it can be read.
            unsafe {
                if !old.is_null() {
                    result::free_host(old).w()?;
                }
                self.start = result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE).w()?;
                self.start.cast::<u8>().write_bytes(0, bytes);
            }
            self.bytes = bytes;
        }
        Ok(self.start)
    }
}
