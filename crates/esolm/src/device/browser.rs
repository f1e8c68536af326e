//! What a browser reveals about its GPU, and the device that all models of a page or worker share.

use std::cell::RefCell;

use burn::tensor::Device;
use js_sys::{Array, Function, Object, Promise, Reflect};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use super::{AdapterInfo, AdapterKind, instance};
use crate::adapter::name_of_renderer;
use crate::kernels::watch::Watch;

thread_local! {
    /// Runtimes registered for a device are never released, so there is one device in all, not one per model.
    static OPENED: RefCell<Option<(Device, AdapterInfo, Watch)>> = const { RefCell::new(None) };
}

/// The open device, if there is one that can take a model.
pub(super) fn opened() -> Option<(Device, AdapterInfo, Watch)> {
    OPENED.with_borrow(|opened| opened.clone().filter(|(_, _, watch)| watch.is_sound()))
}

/// Keeps an open device for later models.
pub(super) fn keep(device: &Device, info: &AdapterInfo, watch: &Watch) {
    OPENED.set(Some((device.clone(), info.clone(), watch.clone())));
}

/// The fastest adapter that the browser offers.
pub(super) async fn adapter(instance: &wgpu::Instance) -> Option<(AdapterInfo, wgpu::Adapter)> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let adapter = instance.request_adapter(&options).await.ok()?;
    let mut info = AdapterInfo::of(0, &adapter);
    // wgpu passes on only one of the four fields that browsers fill in, and most browsers leave that one empty.
    if let Some(seen) = Seen::ask().await {
        if info.name.is_empty() {
            info.name = seen.name;
        }
        if seen.is_software {
            info.kind = AdapterKind::Software;
        }
    }
    if info.name.is_empty() {
        info.name = unnamed(info.kind);
    }
    Some((info, adapter))
}

/// What an adapter is called whose fields are all empty, as Firefox leaves them.
fn unnamed(kind: AdapterKind) -> String {
    if kind == AdapterKind::Software {
        return "software GPU".into();
    }
    // WebGL runs on the same card, if the same one is asked for, and names it.
    let renderer = webgl_renderer().unwrap_or_default();
    name_of_renderer(&renderer).unwrap_or_else(|| "unnamed GPU".into())
}

/// What there is to run on; nothing is opened to find out.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Whether the browser has WebGPU.
    pub webgpu: bool,
    /// The adapter that it offers.
    pub adapter: Option<AdapterInfo>,
    /// Whether shaders may use 16-bit floats. The engine does its own packing and does not need this.
    pub shader_f16: bool,
    /// If there is no adapter, the reason.
    pub reason: Option<String>,
}

/// Queries the browser.
pub async fn facts() -> Facts {
    let webgpu = gpu().is_some();
    let found = if webgpu {
        adapter(&instance()).await
    } else {
        None
    };
    let reason = match (webgpu, &found) {
        (_, Some(_)) => None,
        (false, _) => Some(
            "this browser has no WebGPU, or the page was not loaded over https; use a newer browser, or run on the CPU"
                .into(),
        ),
        (true, None) => Some(
            "the browser has WebGPU but hands out no adapter; update the graphics driver, allow hardware acceleration, or run on the CPU"
                .into(),
        ),
    };
    Facts {
        webgpu,
        shader_f16: found
            .as_ref()
            .is_some_and(|(_, adapter)| adapter.features().contains(wgpu::Features::SHADER_F16)),
        adapter: found.map(|(info, _)| info),
        reason,
    }
}

/// `navigator.gpu`, of a page or of a worker.
fn gpu() -> Option<JsValue> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).ok()?;
    Reflect::get(&navigator, &"gpu".into())
        .ok()
        .filter(JsValue::is_object)
}

/// `RENDERER` of a WebGL context on the fastest card, which is given up at once; `None` where there is no WebGL.
fn webgl_renderer() -> Option<String> {
    // Of the constants that every context has.
    const RENDERER: u32 = 0x1F01;
    let canvas: Function = Reflect::get(&js_sys::global(), &"OffscreenCanvas".into())
        .ok()?
        .dyn_into()
        .ok()?;
    let canvas = Reflect::construct(&canvas, &Array::of2(&1.into(), &1.into())).ok()?;
    let call = |object: &JsValue, method: &str, arguments: &Array| {
        let method: Function = Reflect::get(object, &method.into()).ok()?.dyn_into().ok()?;
        method.apply(object, arguments).ok()
    };
    let wishes = Object::new();
    Reflect::set(
        &wishes,
        &"powerPreference".into(),
        &"high-performance".into(),
    )
    .ok()?;
    let context = call(
        &canvas,
        "getContext",
        &Array::of2(&"webgl".into(), &wishes.into()),
    )
    .filter(JsValue::is_object)?;
    let renderer = call(&context, "getParameter", &Array::of1(&RENDERER.into()))?.as_string();
    // Browsers allow few contexts at a time.
    let lose = Array::of1(&"WEBGL_lose_context".into());
    if let Some(extension) = call(&context, "getExtension", &lose).filter(JsValue::is_object) {
        call(&extension, "loseContext", &Array::new());
    }
    renderer
}

/// The fields of `GPUAdapterInfo`.
struct Seen {
    name: String,
    is_software: bool,
}

impl Seen {
    async fn ask() -> Option<Self> {
        let gpu = gpu()?;
        let options = Object::new();
        Reflect::set(
            &options,
            &"powerPreference".into(),
            &"high-performance".into(),
        )
        .ok()?;
        let request: Function = Reflect::get(&gpu, &"requestAdapter".into())
            .ok()?
            .dyn_into()
            .ok()?;
        let promise: Promise = request.call1(&gpu, &options).ok()?.dyn_into().ok()?;
        let adapter = JsFuture::from(promise).await.ok()?;
        let info = Reflect::get(&adapter, &"info".into()).ok()?;
        let text = |field: &str| {
            let value = Reflect::get(&info, &field.into()).ok();
            value
                .and_then(|value| value.as_string())
                .unwrap_or_default()
        };
        // It stood on the adapter itself in earlier drafts of the standard.
        let is_fallback = [&info, &adapter].iter().any(|place| {
            Reflect::get(place, &"isFallbackAdapter".into())
                .is_ok_and(|value| value.as_bool() == Some(true))
        });
        let architecture = text("architecture");
        let is_software = is_fallback || architecture == "swiftshader";
        let description = text("description");
        let name = match description.is_empty() {
            false => description,
            true => format!("{} {architecture}", text("vendor"))
                .trim()
                .to_string(),
        };
        Some(Self { name, is_software })
    }
}
