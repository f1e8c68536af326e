//! An open device: buffers in Burn's memory, kernels launched on them, and counts of launches, submissions and reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
#[cfg(not(target_family = "wasm"))]
use std::time::{Duration, Instant};

use burn::cubecl::CubeDim;
use burn::cubecl::MemoryScope;
use burn::cubecl::client::{Client, Graph};
use burn::cubecl::prelude::{CubeCount, ExecutionMode, KernelId};
use burn::cubecl::server::{Handle, KernelArguments, MetadataBindingInfo};
#[cfg(not(target_family = "wasm"))]
use burn::cubecl::{device::DeviceId, device_handle::DeviceHandle, wgpu::WgpuServer};
use burn::tensor::{Bytes, Device, Tensor};
#[cfg(not(target_family = "wasm"))]
use burn_wgpu::AutoCompiler;
use burn_wgpu::{KernelSource, SourceKernel, SourceTemplate, Wgpu};
use esolm_core::trace::Counters;
use esolm_shaders::{Form, Shader};

use super::watch::{Pending, Watch};
use super::work::{Extent, Limits};
use crate::adapter::AdapterInfo;
use crate::error::EngineError;

/// What determines a kernel's source: the shader's name and every parameter that changes the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KernelKey {
    /// The shader's name.
    name: &'static str,
    /// Constants, flags and variants, in an order specific to the shader.
    params: Vec<u32>,
}

/// A composed shader, compiled on its first launch.
#[derive(Clone)]
pub struct Kernel {
    source: Arc<str>,
    id: KernelId,
    dim: CubeDim,
}

impl KernelSource for Kernel {
    fn source(&self) -> SourceTemplate {
        SourceTemplate::new(self.source.to_string())
    }

    fn id(&self) -> KernelId {
        self.id.clone()
    }

    fn lang(&self) -> &'static str {
        "wgsl"
    }
}

/// Device memory of Burn's runtime, or a part of it.
#[derive(Clone)]
pub struct Buffer {
    handle: Handle,
}

impl Buffer {
    /// Bytes of the buffer.
    pub fn bytes(&self) -> u64 {
        self.handle.size_in_used()
    }

    /// The `bytes` bytes from `start` on; `start` must be a multiple of 256.
    pub fn part(&self, start: u64, bytes: u64) -> Buffer {
        let rest = self.handle.size_in_used() - start - bytes;
        Buffer {
            handle: self.handle.clone().offset_start(start).offset_end(rest),
        }
    }
}

/// Recorded launches, which can be replayed any number of times on the same buffers and workgroups. The driver's commands are then
/// prepared only once, which is most of what a launch costs the host.
pub struct Recording {
    /// In order, each at most as much work as is submitted at once.
    pieces: Vec<Piece>,
    /// The thread that recorded it; nothing orders it after the work of another thread.
    thread: ThreadId,
    /// What the launches read and write.
    _buffers: Vec<Buffer>,
}

/// Recorded launches that are submitted together.
struct Piece {
    graph: Graph,
    launches: u64,
    work: u64,
}

/// A recording in progress.
#[derive(Default)]
struct Recorder {
    pieces: Vec<Piece>,
    buffers: Vec<Buffer>,
    /// Launches of the open piece, and their work.
    launches: u64,
    work: u64,
    has_failed: bool,
}

/// An entry in Burn's registry of devices, which would otherwise keep the device until the process ends. Drivers allow only a few dozen
/// open devices. In a browser, all models share one device, which stays open.
#[cfg(not(target_family = "wasm"))]
struct Registered {
    device: DeviceId,
    is_open: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Maximum time to wait for a device to be closed. Something else may hold it, such as a read that was never awaited.
#[cfg(not(target_family = "wasm"))]
const CLOSING: Duration = Duration::from_secs(2);

#[cfg(not(target_family = "wasm"))]
impl Drop for Registered {
    fn drop(&mut self) {
        DeviceHandle::<WgpuServer<AutoCompiler>>::shutdown(self.device);
        // A thread of the runtime, which nobody joins, may hold the device a moment longer.
        let begin = Instant::now();
        while (self.is_open)() && begin.elapsed() < CLOSING {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// An open GPU with Burn's client, the kernels composed so far and the counts. Dropping it closes the device.
pub struct Gpu {
    device: Device,
    client: Client,
    /// The adapter behind it.
    pub info: AdapterInfo,
    /// Limits of the work of a launch and of a submission.
    pub limits: Limits,
    pub(crate) watch: Watch,
    faults: Pending,
    kernels: Mutex<HashMap<KernelKey, Arc<Kernel>>>,
    recorder: Mutex<Option<Recorder>>,
    dispatches: AtomicU64,
    submits: AtomicU64,
    bytes_read: AtomicU64,
    pending: AtomicU64,
    /// Dropped last, since closing a device waits until it has no client left.
    #[cfg(not(target_family = "wasm"))]
    registered: Registered,
}

impl Gpu {
    /// Wraps an initialised Burn device of the wgpu runtime.
    ///
    /// # Errors
    /// If `device` is not a wgpu device.
    pub fn new(device: Device, info: AdapterInfo, watch: Watch) -> Result<Self, EngineError> {
        let probe = Tensor::<1>::from_data([0.0f32], &device)
            .try_into_primitive::<Wgpu>()
            .map_err(|e| EngineError::Device(format!("the device runs no WGSL kernels: {e:?}")))?;
        Ok(Self {
            device,
            #[cfg(not(target_family = "wasm"))]
            registered: Registered {
                device: probe.handle.service.device,
                is_open: Box::new(watch.is_open()),
            },
            client: probe.client.clone(),
            info,
            limits: Limits::default(),
            watch,
            faults: Pending::default(),
            kernels: Mutex::default(),
            recorder: Mutex::default(),
            dispatches: AtomicU64::new(0),
            submits: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            pending: AtomicU64::new(0),
        })
    }

    /// The Burn device. All of its tensors must be dropped before this is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The Burn device, which stays open until the process ends, since it is unknown when its last tensor is dropped.
    pub fn into_device(self) -> Device {
        #[cfg(not(target_family = "wasm"))]
        std::mem::forget(self.registered);
        self.device
    }

    /// Runs `work`, which allocates, compiles or launches but does not wait. Anything that the device refuses becomes an error of the next
    /// read or check.
    pub fn scoped<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watch.scoped(&self.faults, work)
    }

    /// Whether memory was refused since the last call; everything allocated since then must be dropped.
    pub fn take_refused(&self) -> bool {
        self.faults.take_refused()
    }

    /// Returns unused memory to the device.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the device is lost.
    pub fn clean_up(&self) -> Result<(), EngineError> {
        self.client
            .memory_cleanup()
            .map_err(|e| EngineError::lost(&e))
    }

    /// Bytes of device memory reserved now, by everything that runs on the device.
    pub fn reserved_bytes(&self) -> u64 {
        self.client
            .memory_report(MemoryScope::Device)
            .usage()
            .bytes_reserved
    }

    /// Uploads a tensor of f32.
    ///
    /// # Errors
    /// [`EngineError::Memory`] if it is larger than one binding of the adapter.
    pub fn floats(&self, data: Vec<f32>) -> Result<Buffer, EngineError> {
        self.held(Bytes::from_elems(data))
    }

    /// Uploads a tensor of u32: indices, or f16 packed two to a word.
    ///
    /// # Errors
    /// Same as [`Gpu::floats`].
    pub fn words(&self, data: Vec<u32>) -> Result<Buffer, EngineError> {
        self.held(Bytes::from_elems(data))
    }

    fn held(&self, bytes: Bytes) -> Result<Buffer, EngineError> {
        self.fits("a tensor", bytes.len() as u64)?;
        Ok(Buffer {
            handle: self.client.create(bytes),
        })
    }

    /// Allocates `len` f32, uninitialised; `what` names them in the error.
    ///
    /// # Errors
    /// Same as [`Gpu::floats`].
    pub fn allocate(&self, what: &str, len: usize) -> Result<Buffer, EngineError> {
        let bytes = len.max(4) as u64 * 4;
        self.fits(what, bytes)?;
        Ok(Buffer {
            handle: self.client.empty(bytes as usize),
        })
    }

    /// Uploads bytes, such as a table that changes with every pass.
    pub fn upload(&self, bytes: &[u8]) -> Buffer {
        Buffer {
            handle: self.client.create_from_slice(bytes),
        }
    }

    /// Overwrites `buffer` after all work so far; `bytes` must be of the same length.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) {
        debug_assert_eq!(buffer.bytes(), bytes.len() as u64);
        let bytes = Bytes::from_elems(bytes.to_vec());
        self.client.write(&buffer.handle, bytes);
    }

    /// Checks that a tensor of `bytes` bytes fits one binding.
    ///
    /// # Errors
    /// [`EngineError::Memory`], naming `what`, if it does not.
    pub fn fits(&self, what: &str, bytes: u64) -> Result<(), EngineError> {
        let limit = self.info.max_binding_bytes();
        if bytes > limit {
            return Err(EngineError::Memory {
                what: what.to_string(),
                bytes,
                limit,
            });
        }
        Ok(())
    }

    /// A kernel of `shader`, composed on first use. `params` must distinguish all results of `form`; `dim` is the workgroup size.
    pub fn kernel(
        &self,
        shader: &'static Shader,
        params: Vec<u32>,
        dim: u32,
        form: impl FnOnce() -> Form,
    ) -> Arc<Kernel> {
        let name = shader.name;
        let key = KernelKey { name, params };
        let mut kernels = self
            .kernels
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(kernel) = kernels.get(&key) {
            return kernel.clone();
        }
        let source: Arc<str> = shader.compose(&form()).into();
        let dim = CubeDim::new_1d(dim);
        let id = KernelId::new::<Kernel>()
            .info(key.clone())
            .cube_dim(dim.0)
            .mode(ExecutionMode::Unchecked);
        let kernel = Arc::new(Kernel { source, id, dim });
        kernels.insert(key, kernel.clone());
        kernel
    }

    /// Runs `kernel` on the workgroups of `extent`, in as many launches as [`Gpu::limits`] requires. `info` is its uniform block, a
    /// multiple of four words, without the launch's first workgroup, with which every kernel's block ends.
    pub fn launch(&self, kernel: &Kernel, extent: &Extent, buffers: &[&Buffer], info: &[u32]) {
        debug_assert_eq!(info.len() % 4, 0);
        let mut recorder = self.recorder();
        for part in extent.parts(self.limits.launch) {
            match &mut *recorder {
                Some(recorder) => {
                    if recorder.launches > 0 && recorder.work + part.work > self.limits.submit {
                        self.close(recorder);
                        recorder.has_failed = recorder.has_failed || !self.open();
                    }
                    if recorder.has_failed {
                        return;
                    }
                    recorder.launches += 1;
                    recorder.work += part.work;
                    recorder.buffers.extend(buffers.iter().copied().cloned());
                }
                None => self.count(1, part.work),
            }
            let [x, y, z] = part.origin;
            let words = [info, &[x, y, z, 0]]
                .concat()
                .chunks(2)
                .map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32)
                .collect();
            let bindings = buffers.iter().map(|b| b.handle.clone().binding()).collect();
            let arguments = KernelArguments::new()
                .with_buffers(bindings)
                .with_info(MetadataBindingInfo::custom(words));
            let [x, y, z] = part.grid;
            self.client.launch(
                Box::new(SourceKernel::new(kernel.clone(), kernel.dim)),
                CubeCount::Static(x, y, z),
                arguments,
            );
        }
    }

    /// Counts the next launches, and first submits what is queued if it would be too much work together with them.
    fn count(&self, launches: u64, work: u64) {
        let pending = self.pending.load(Ordering::Relaxed);
        if pending > 0 && pending + work > self.limits.submit {
            // If flushing fails, the device has failed, and the next read reports it.
            let _ = self.submit();
        }
        self.dispatches.fetch_add(launches, Ordering::Relaxed);
        self.pending.fetch_add(work, Ordering::Relaxed);
    }

    fn recorder(&self) -> MutexGuard<'_, Option<Recorder>> {
        let locked = self.recorder.lock();
        locked.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Records what `work` launches without running it. `work` must only launch kernels that have all run before. `None` if recording
    /// fails.
    pub fn record(&self, work: impl FnOnce()) -> Option<Recording> {
        if !self.open() {
            return None;
        }
        *self.recorder() = Some(Recorder::default());
        work();
        let mut recorder = self.recorder().take()?;
        if !recorder.has_failed {
            self.close(&mut recorder);
        }
        (!recorder.has_failed).then(|| Recording {
            pieces: recorder.pieces,
            thread: thread::current().id(),
            _buffers: recorder.buffers,
        })
    }

    /// Begins a piece of a recording; returns whether that was possible.
    fn open(&self) -> bool {
        let prepared = self.client.graph_prepare();
        let is_open = prepared.and_then(|()| self.client.start_capture()).is_ok();
        if !is_open {
            // Discard what was prepared.
            let _ = self.client.stop_capture();
        }
        is_open
    }

    /// Ends a piece of a recording.
    fn close(&self, recorder: &mut Recorder) {
        let [launches, work] = [&mut recorder.launches, &mut recorder.work].map(std::mem::take);
        match self.client.stop_capture() {
            Ok(graph) => recorder.pieces.push(Piece {
                graph,
                launches,
                work,
            }),
            Err(_) => recorder.has_failed = true,
        }
    }

    /// Whether [`Gpu::replay`] may run `recording` here, on the thread that recorded it.
    pub fn can_replay(&self, recording: &Recording) -> bool {
        recording.thread == thread::current().id()
    }

    /// Runs the recorded launches again, after all work of this thread so far.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the device is lost.
    ///
    /// # Panics
    /// On any thread but the one that recorded it.
    pub fn replay(&self, recording: &Recording) -> Result<(), EngineError> {
        assert!(self.can_replay(recording), "recorded on another thread");
        for piece in &recording.pieces {
            self.count(piece.launches, piece.work);
            // SAFETY: the recording holds every buffer that its launches read or write, and they are ordered with the work of this
            // thread, the only user of this client.
            unsafe { piece.graph.replay() }.map_err(|e| EngineError::lost(&e))?;
        }
        Ok(())
    }

    /// Submits what is queued.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the device is lost.
    pub fn submit(&self) -> Result<(), EngineError> {
        self.pending.store(0, Ordering::Relaxed);
        self.submits.fetch_add(1, Ordering::Relaxed);
        self.client.flush().map_err(|e| EngineError::lost(&e))
    }

    /// Starts copying `buffer` to the host; the future yields its bytes, without waiting for work queued later. It must be awaited, not
    /// dropped: until then the copy's staging memory stays in use.
    ///
    /// # Errors
    /// [`EngineError::Device`] if a kernel that wrote the buffer failed, memory ran out or the device is lost.
    pub fn read(
        &self,
        buffer: &Buffer,
    ) -> impl Future<Output = Result<Vec<u8>, EngineError>> + 'static {
        self.bytes_read.fetch_add(buffer.bytes(), Ordering::Relaxed);
        self.submits.fetch_add(1, Ordering::Relaxed);
        self.pending.store(0, Ordering::Relaxed);
        let (client, handle) = (self.client.clone(), buffer.handle.clone());
        let mut reading = Box::pin(async move {
            let mut bytes = client
                .read_async(vec![handle])
                .await
                .map_err(|e| EngineError::lost(&e))?;
            Ok(bytes.pop().map(|b| b.to_vec()).unwrap_or_default())
        });
        // The first poll queues the copy, so it must come before the next launch.
        let first = self.scoped(|| {
            let mut context = Context::from_waker(Waker::noop());
            reading.as_mut().poll(&mut context)
        });
        let (settled, watch) = (self.watch.settle(&self.faults), self.watch.clone());
        async move {
            let settled = settled.await;
            // Awaited in any case: only then is the copy's staging memory free again.
            let bytes = match first {
                Poll::Ready(done) => done,
                Poll::Pending => reading.await,
            };
            settled?;
            // A device that was lost meanwhile may return zeros.
            watch.settle(&Pending::default()).await?;
            bytes
        }
    }

    /// [`Gpu::read`] as f32.
    pub fn read_floats(
        &self,
        buffer: &Buffer,
    ) -> impl Future<Output = Result<Vec<f32>, EngineError>> + 'static {
        let reading = self.read(buffer);
        async move { Ok(bytemuck::pod_collect_to_vec(&reading.await?)) }
    }

    /// Waits for all work and checks that `buffers` were really allocated and written (allocation fails lazily).
    ///
    /// # Errors
    /// Same as [`Gpu::read`].
    pub async fn check(&self, buffers: &[&Buffer]) -> Result<(), EngineError> {
        let handles: Vec<&Handle> = buffers.iter().map(|b| &b.handle).collect();
        self.watch.settle(&self.faults).await?;
        let synced = self.client.sync_buffers(handles).await;
        self.watch.settle(&self.faults).await?;
        synced.map_err(|e| EngineError::lost(&e))
    }

    /// Waits until a Burn tensor on this device is computed.
    ///
    /// # Errors
    /// Same as [`Gpu::read`].
    pub async fn wait<const D: usize>(&self, tensor: Tensor<D>) -> Result<(), EngineError> {
        match tensor.try_into_primitive::<Wgpu>() {
            Ok(tensor) => self
                .client
                .sync_buffers([&tensor.handle])
                .await
                .map_err(|e| EngineError::lost(&e)),
            Err(other) => Err(EngineError::Device(format!(
                "the tensor is not on this device: {other:?}"
            ))),
        }
    }

    /// Launches, submissions and bytes read so far, and the device memory reserved now, which is the peak, as none is returned while a
    /// model runs.
    pub fn counters(&self) -> Counters {
        Counters {
            dispatches: self.dispatches.load(Ordering::Relaxed),
            submits: self.submits.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            peak_bytes: self.reserved_bytes(),
        }
    }
}
