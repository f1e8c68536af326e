//! A checkpoint of the browser: texts of its small files, and weights that are read in parts.

use std::ops::Range;

use esolm::checkpoint::{ByteSource, ChatFiles, Reading, Weights, shard_names};
use js_sys::{Array, Promise, Uint8Array};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use crate::error::Failure;

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
    /// Text of generation_config.json.
    #[wasm_bindgen(method, getter)]
    pub fn generation(this: &Source) -> Option<String>;
    /// Text of tokenizer_config.json.
    #[wasm_bindgen(method, getter, js_name = tokenizerConfig)]
    fn tokenizer_config(this: &Source) -> Option<String>;
    /// Text of chat_template.jinja.
    #[wasm_bindgen(method, getter, js_name = chatTemplate)]
    fn chat_template(this: &Source) -> Option<String>;
    /// The weights: a file, or shards.
    #[wasm_bindgen(method, getter)]
    fn weights(this: &Source) -> JsValue;

    /// A file of weights.
    #[derive(Clone)]
    type File;

    #[wasm_bindgen(method, getter)]
    fn size(this: &File) -> f64;
    #[wasm_bindgen(method, catch)]
    fn read(this: &File, start: f64, end: f64) -> Result<Promise, JsValue>;
    /// What an index calls it.
    #[wasm_bindgen(method, getter)]
    fn name(this: &File) -> Option<String>;

    /// Weights in several files.
    type Shards;

    /// Text of the index.
    #[wasm_bindgen(method, getter)]
    fn index(this: &Shards) -> Option<String>;
    /// The files.
    #[wasm_bindgen(method, getter)]
    fn files(this: &Shards) -> Array;
}

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &'static str = r#"
/** Bytes of a weights file: `read` gives those from `start` up to, not including, `end`. */
export interface WasmWeights { size: number; read(start: number, end: number): Promise<Uint8Array>; }
/** Weights in several files: the text of model.safetensors.index.json, and the files that `shard_names` finds in it. */
export interface WasmShards { index: string; files: (WasmWeights & { name: string })[]; }
/** What a model is loaded from: texts of config.json, tokenizer.json, generation_config.json and of the two files that may hold a chat template, and model.safetensors, its shards, or a Lightning .ckpt. */
export interface WasmSource { config?: string; tokenizer?: string; generation?: string; tokenizerConfig?: string; chatTemplate?: string; weights: WasmWeights | WasmShards; }
"#;

/// The names of the files that the text of a model.safetensors.index.json names. Each stands beside it.
///
/// # Errors
/// When it is not an index, or names anything else.
#[wasm_bindgen(js_name = shard_names)]
pub fn names(index: &str) -> Result<Vec<String>, Failure> {
    Ok(shard_names(index)?)
}

impl Source {
    /// How the model is talked to.
    pub fn chat_files(&self) -> ChatFiles {
        ChatFiles {
            template: self.chat_template(),
            tokenizer_config: self.tokenizer_config(),
        }
    }

    /// The weights, to be read in parts.
    pub fn parts(&self) -> Weights {
        let weights = self.weights();
        let shards: &Shards = weights.unchecked_ref();
        let Some(index) = shards.index() else {
            return Weights::File(Box::new(weights.unchecked_into::<File>()));
        };
        let named = |file: JsValue| {
            let file: File = file.unchecked_into();
            let source: Box<dyn ByteSource> = Box::new(file.clone());
            (file.name().unwrap_or_default(), source)
        };
        Weights::Shards {
            index,
            files: shards.files().iter().map(named).collect(),
        }
    }
}

impl ByteSource for File {
    fn size(&self) -> u64 {
        // Sizes of files are whole and far below 2^53.
        File::size(self) as u64
    }

    fn read(&self, range: Range<u64>) -> Reading<'_> {
        let asked = File::read(self, range.start as f64, range.end as f64);
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
