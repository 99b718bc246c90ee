//! Recordings on CUDA: graphs. A graph belongs to the thread that recorded it, as the stream does that it runs on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};
use candle_core::{Device, Error, Result};

use super::link::Link;
use crate::device::gate;

thread_local! {
    static GRAPHS: RefCell<HashMap<u64, Graph>> = RefCell::default();
}

/// A graph, and the stream that it is played on.
struct Graph {
    graph: CudaGraph,
    stream: Arc<CudaStream>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // What was played last may not be over. Where the device is gone nothing is.
        let _ = self.stream.synchronize();
    }
}

/// A graph of this thread's, or, on processors, nothing.
pub(super) struct Tape(Option<u64>);

impl Tape {
    /// Records what `work` has the device do, without its being done. None: the device refuses to record that.
    ///
    /// # Errors
    /// When the device does not even end a recording.
    pub(super) fn record(
        device: &Device,
        link: &Link,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Option<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Ok(cuda) = device.as_cuda_device() else {
            return Ok(Some(Self(None)));
        };
        let stream = cuda.cuda_stream();
        stream.synchronize().map_err(Error::wrap)?;
        let _recording = gate::recording();
        let kept = link.parameters_kept();
        // Other threads go on allocating.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        if stream.begin_capture(mode).is_err() {
            return Ok(None);
        }
        let worked = work();
        drop(kept);
        // What could not be freed while it was spoilt: it would keep the recording from being ended.
        let spoilt = stream.context().check_err();
        // Ends also what a refused operation has spoilt.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let (Ok(()), Ok(()), Ok(Some(graph))) = (worked, spoilt, graph) else {
            // That it was spoilt is no error of the work that follows.
            let _ = stream.context().check_err();
            return Ok(None);
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let graph = Graph { graph, stream };
        GRAPHS.with(|graphs| graphs.borrow_mut().insert(number, graph));
        Ok(Some(Self(Some(number))))
    }

    /// Has the device do what was recorded. False: there is nothing to be played on this thread.
    ///
    /// # Errors
    /// When the device refuses.
    pub(super) fn play(&self) -> Result<bool> {
        let Some(number) = self.0 else {
            return Ok(false);
        };
        GRAPHS.with(|graphs| match graphs.borrow().get(&number) {
            None => Ok(false),
            Some(one) => one.graph.launch().map(|()| true).map_err(Error::wrap),
        })
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        let Some(number) = self.0 else { return };
        // A thread that ends has dropped its graphs by itself.
        let _ = GRAPHS.try_with(|graphs| graphs.borrow_mut().remove(&number));
    }
}
