//! A hand-made Lightning checkpoint, valid and invalid.

use esolm_core::checkpoint::{Checkpoint, CheckpointError};

use super::forge::{
    Value, archive, boolean, dict, float, int, list, ordered, plain, program, text,
};

/// A checkpoint of an AR model of width 2 with no blocks to speak of: small enough to make by hand.
pub struct Forged {
    pub state: Vec<(&'static str, Value)>,
    pub ema: Option<Value>,
    pub algo: Vec<(&'static str, Value)>,
    pub model: Vec<(&'static str, Value)>,
    pub tokenizer: Option<Value>,
    /// Further hyper-parameters.
    pub parameters: Vec<(&'static str, Value)>,
    pub more: Vec<(&'static str, Value)>,
}

pub const NAMES: [(&str, &[i32]); 13] = [
    ("backbone.vocab_embed.embedding", &[3, 2]),
    ("backbone.rotary_emb.inv_freq", &[1]),
    ("backbone.blocks.0.norm1.weight", &[2]),
    ("backbone.blocks.0.attn_qkv.weight", &[6, 2]),
    ("backbone.blocks.0.attn_out.weight", &[2, 2]),
    ("backbone.blocks.0.norm2.weight", &[2]),
    ("backbone.blocks.0.mlp.0.weight", &[8, 2]),
    ("backbone.blocks.0.mlp.0.bias", &[8]),
    ("backbone.blocks.0.mlp.2.weight", &[2, 8]),
    ("backbone.blocks.0.mlp.2.bias", &[2]),
    ("backbone.output_layer.norm_final.weight", &[2]),
    ("backbone.output_layer.linear.weight", &[3, 2]),
    ("backbone.output_layer.linear.bias", &[3]),
];

/// The raw weights: 0.0, 1.0, ... each. The rotary buffer is 1.0, the frequency of the only pair of columns.
pub fn state() -> Vec<(&'static str, Value)> {
    let value = |(name, shape): (&'static str, &[i32])| {
        (name, plain(shape, i32::from(name.contains("inv_freq"))))
    };
    NAMES.map(value).to_vec()
}

impl Forged {
    pub fn new() -> Self {
        let ema = NAMES
            .iter()
            .filter(|(name, _)| !name.contains("inv_freq"))
            .map(|(_, shape)| plain(shape, 1));
        Self {
            state: state(),
            ema: Some(dict(&[("shadow_params", list(&ema.collect::<Vec<_>>()))])),
            algo: vec![
                ("name", text("ar")),
                ("prepend_token", text("bos")),
                ("time_conditioning", boolean(false)),
            ],
            model: vec![
                ("hidden_size", int(2)),
                ("n_blocks", int(1)),
                ("n_heads", int(1)),
                ("length", int(4)),
                ("dropout", float(0.25)),
            ],
            tokenizer: None,
            parameters: vec![],
            more: vec![],
        }
    }

    pub fn with(edit: impl FnOnce(&mut Self)) -> Self {
        let mut forged = Self::new();
        edit(&mut forged);
        forged
    }

    pub fn set(list: &mut Vec<(&'static str, Value)>, key: &'static str, value: Value) {
        match list.iter_mut().find(|(name, _)| *name == key) {
            Some(entry) => entry.1 = value,
            None => list.push((key, value)),
        }
    }

    pub fn pickle(&self) -> Vec<u8> {
        let config = dict(&[("algo", dict(&self.algo)), ("model", dict(&self.model))]);
        let mut parameters = vec![("config", config)];
        parameters.extend(self.tokenizer.clone().map(|value| ("tokenizer", value)));
        parameters.extend(self.parameters.clone());
        let mut root = vec![
            ("state_dict", ordered(&self.state)),
            ("hyper_parameters", dict(&parameters)),
        ];
        root.extend(self.ema.clone().map(|ema| ("ema", ema)));
        root.extend(self.more.clone());
        program(dict(&root))
    }

    pub fn open(&self) -> Result<Checkpoint, CheckpointError> {
        open_pickle(&self.pickle())
    }
}

pub fn open_pickle(pickle: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_ckpt_bytes(archive(pickle), false)
}
