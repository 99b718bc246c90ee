//! What the driver is told about a device once.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice, CUmemPool_attribute, CUmemoryPool};
use cudarc::driver::{CudaContext, CudaStream, result};

use super::CudaError;

/// Settles a device on which all work goes through `stream`, a stream of its context's own.
///
/// - What lies between operations of one stream needs no events: they would be made for each operation and cannot be
///   recorded in a graph.
/// - The pool that memory comes from keeps what it has. By default it gives all of it back whenever the host waits for the
///   device, which is once in a step.
///
/// # Errors
/// [`CudaError::Driver`].
pub fn settle(stream: &Arc<CudaStream>) -> Result<(), CudaError> {
    let context = stream.context();
    // SAFETY: events keep operations of different streams apart. candle has one stream for a context that it makes, and
    // nobody else asks the context for another: its clones end with the device.
    // JUSTIFICATION: a stream that others do not wait for has events by default, and they cannot be turned off otherwise.
    unsafe { context.disable_event_tracking() };
    let pool = pool(context)?;
    let mut threshold = u64::MAX;
    let name = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, which always exists, and this attribute is a 64-bit number, as `threshold` is.
    // JUSTIFICATION: there is no safe call for it.
    unsafe { result::mem_pool::set_attribute(pool, name, (&raw mut threshold).cast::<c_void>()) }?;
    Ok(())
}

/// Bytes that the device's pool keeps and nobody uses.
///
/// # Errors
/// [`CudaError::Driver`].
pub fn idle_bytes(stream: &Arc<CudaStream>) -> Result<u64, CudaError> {
    use CUmemPool_attribute::{
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT,
    };
    let pool = pool(stream.context())?;
    let read = |name| {
        let mut bytes = 0_u64;
        // SAFETY: as above; both attributes are 64-bit numbers.
        // JUSTIFICATION: there is no safe call for it.
        unsafe { result::mem_pool::get_attribute(pool, name, (&raw mut bytes).cast::<c_void>()) }
            .map(|()| bytes)
    };
    let reserved = read(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Ok(reserved.saturating_sub(read(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}

fn pool(context: &Arc<CudaContext>) -> Result<CUmemoryPool, CudaError> {
    context.bind_to_thread()?;
    let device: CUdevice = context.cu_device();
    // SAFETY: the device is the context's.
    // JUSTIFICATION: there is no safe call for it.
    Ok(unsafe { result::device::get_default_mem_pool(device) }?)
}
