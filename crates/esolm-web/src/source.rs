//! A checkpoint of the browser: texts of its small files, and weights that are read in parts.

use std::ops::Range;

use esolm::checkpoint::{ByteSource, Reading};
use js_sys::{Promise, Uint8Array};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    /// What a model is loaded from.
    #[wasm_bindgen(typescript_type = "WasmSource")]
    pub type Source;

    /// Text of config.json.
    #[wasm_bindgen(method, getter)]
    pub fn config(this: &Source) -> Option<String>;
    /// Text of tokenizer.json.
    #[wasm_bindgen(method, getter)]
    pub fn tokenizer(this: &Source) -> Option<String>;
    /// The weights.
    #[wasm_bindgen(method, getter)]
    pub fn weights(this: &Source) -> Weights;

    /// The bytes of a weights file.
    #[wasm_bindgen(typescript_type = "WasmWeights")]
    pub type Weights;

    #[wasm_bindgen(method, getter)]
    fn size(this: &Weights) -> f64;
    #[wasm_bindgen(method, catch)]
    fn read(this: &Weights, start: f64, end: f64) -> Result<Promise, JsValue>;
}

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &'static str = r#"
/** Bytes of a weights file: `read` gives those from `start` up to, not including, `end`. */
export interface WasmWeights { size: number; read(start: number, end: number): Promise<Uint8Array>; }
/** What a model is loaded from: texts of config.json and tokenizer.json, and model.safetensors or a Lightning .ckpt. */
export interface WasmSource { config?: string; tokenizer?: string; weights: WasmWeights; }
"#;

impl ByteSource for Weights {
    fn size(&self) -> u64 {
        // Sizes of files are whole and far below 2^53.
        Weights::size(self) as u64
    }

    fn read(&self, range: Range<u64>) -> Reading<'_> {
        let asked = Weights::read(self, range.start as f64, range.end as f64);
        Box::pin(async move {
            let value = JsFuture::from(asked.map_err(|error| words(&error))?)
                .await
                .map_err(|error| words(&error))?;
            let bytes: Uint8Array = value
                .dyn_into()
                .map_err(|_| "what reads the weights gave no Uint8Array".to_string())?;
            Ok(bytes.to_vec())
        })
    }
}

/// What a JavaScript error says.
fn words(error: &JsValue) -> String {
    let message = error.dyn_ref::<js_sys::Error>().map(|error| {
        let text: String = error.message().into();
        text
    });
    message.unwrap_or_else(|| format!("{error:?}"))
}
