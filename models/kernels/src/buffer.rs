//! Memory for weights, keys and values: whole pages from the system, huge ones where it gives them, so that a pass over
//! all weights misses no translation. Pages that nobody writes take no memory.
//!
//! Built with `--cfg heap_buffers` it comes from the allocator, in blocks without a byte to spare: then tools that watch
//! the borders of allocations (`scripts/check-memory`) see a read beyond the end.

#[cfg(not(heap_buffers))]
use std::ffi::c_void;
use std::ptr::NonNull;

#[cfg(not(heap_buffers))]
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of a huge page.
#[cfg(any(test, not(heap_buffers)))]
const HUGE: usize = 2 << 20;

/// Bytes, zero at first, aligned to a page at least. Who puts secrets in wipes them: here it is not known which
/// pages were ever written, and wiping the others would take the memory that they never took.
pub struct Buffer {
    #[cfg(not(heap_buffers))]
    map: NonNull<c_void>,
    #[cfg(not(heap_buffers))]
    map_len: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its bytes and has no interior mutability.
// JUSTIFICATION: weights are read by all threads.
unsafe impl Send for Buffer {}
// SAFETY: as above; through `&Buffer` bytes are only read.
// JUSTIFICATION: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are ours and zero or set through `as_mut_slice`.
        // JUSTIFICATION: memory that is mapped is known by its address alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the borrow the only one.
        // JUSTIFICATION: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(not(heap_buffers))]
impl Buffer {
    /// `len` zeros.
    ///
    /// # Errors
    /// When the system refuses them.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let refused = |_| OutOfMemory(len);
        // Room to begin at a huge page's border.
        let slack = if len >= HUGE { HUGE } else { 0 };
        let map_len = len.max(1).checked_add(slack).ok_or(OutOfMemory(len))?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at a place that the system chooses touches nothing that exists.
        // JUSTIFICATION: the allocator writes zeros over memory that is zero already, a second pass over all weights, and
        // takes memory for pages that may never be used.
        let map = unsafe { mmap_anonymous(std::ptr::null_mut(), map_len, access, flags) };
        let map = NonNull::new(map.map_err(refused)?).ok_or(OutOfMemory(len))?;
        let offset = match slack {
            0 => 0,
            _ => map.as_ptr().align_offset(HUGE).min(slack),
        };
        // SAFETY: the offset is at most the slack, so `len` bytes from it on lie inside the mapping.
        // JUSTIFICATION: huge pages begin at their borders; what they are worth is said below.
        let start = unsafe { map.cast::<u8>().add(offset) };
        if slack > 0 {
            // SAFETY: the range is ours, and the advice changes no content. Where it is refused small pages serve.
            // JUSTIFICATION: one row against 8192 × 2048 weights takes 0.22 ms instead of 0.32.
            let advised = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
            // Not every kernel has huge pages.
            let _ = advised;
        }
        Ok(Self {
            map,
            map_len,
            start,
            len,
        })
    }
}

#[cfg(not(heap_buffers))]
impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: mapped in `zeroed`, and nobody borrows it any more.
        // JUSTIFICATION: nothing else gives a mapping back.
        let unmapped = unsafe { munmap(self.map.as_ptr(), self.map_len) };
        debug_assert!(unmapped.is_ok(), "the mapping was there");
    }
}

#[cfg(heap_buffers)]
impl Buffer {
    /// A page, so that alignment is what it is otherwise.
    fn layout(len: usize) -> Result<std::alloc::Layout, OutOfMemory> {
        std::alloc::Layout::from_size_align(len.max(1), 4096).map_err(|_| OutOfMemory(len))
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// When the allocator refuses them.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let layout = Self::layout(len)?;
        // SAFETY: the layout has a byte at least.
        // JUSTIFICATION: a vector cannot be aligned to a page.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or(OutOfMemory(len))?;
        Ok(Self { start, len })
    }
}

#[cfg(heap_buffers)]
impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `zeroed` with this layout, and nobody borrows it any more.
            // JUSTIFICATION: what was allocated by hand is freed by hand.
            unsafe { std::alloc::dealloc(self.start.as_ptr(), layout) }
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

/// More bytes than there can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system has no {0} bytes of memory")]
pub struct OutOfMemory(usize);

impl OutOfMemory {
    pub(crate) fn of(bytes: usize) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_whole() {
        for len in [0, 1, 4096, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut buffer = Buffer::zeroed(len).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(buffer.as_slice().len(), len);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            buffer.as_mut_slice().fill(7);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 7));
            let border = if len < HUGE || cfg!(heap_buffers) {
                4096
            } else {
                HUGE
            };
            assert!(buffer.as_slice().as_ptr().addr().is_multiple_of(border));
        }
        assert!(Buffer::zeroed(usize::MAX - 5).is_err());
        assert!(Buffer::zeroed(usize::MAX / 2).is_err());
    }
}
