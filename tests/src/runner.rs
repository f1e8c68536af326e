//! What runs passes: the executors and the reference pass, with a common trait.

use burn::tensor::Device;
use esolm::checkpoint::Checkpoint;
use esolm::config::ModelConfig;
use esolm::engine::Engine;
use esolm::executor::Draw;
use esolm::network::{DecoderNetwork, Network};
use esolm::passes::log_probability;
use esolm::rows::{Layout, StepRows};
use esolm::{Activations, DeviceChoice, LoadOptions, Weights};

/// An executor under test. Errors are panics here.
pub trait Runner {
    /// Cache and token buffer for a batch.
    fn start(&mut self, layout: &Layout, tokens: &[u32]);
    /// Logits `[sampled, V]` of a pass.
    fn logits(&mut self, step: &StepRows) -> Vec<f32>;
    /// Log-probabilities of the sampled rows' tokens.
    fn score(&mut self, step: &StepRows, targets: &[u32]) -> Vec<f32>;
    /// Runs a pass and draws; `ids` has the absolute index of each sequence.
    fn step(&mut self, step: &StepRows, ids: &[u32], draw: &Draw);
    /// The token buffer.
    fn tokens(&mut self) -> Vec<u32>;
    /// Whether a pass sees what earlier passes of the batch left.
    fn has_cache(&self) -> bool {
        true
    }
}

/// The engine on the CPU or on a GPU adapter.
pub struct OnDevice(pub Engine);

impl OnDevice {
    /// Loads a checkpoint for the CPU.
    pub fn cpu(ckpt: &Checkpoint) -> Self {
        Self::rounded(ckpt, Weights::F32, Activations::F32)
    }

    /// Loads a checkpoint for the CPU, quantised.
    pub fn rounded(ckpt: &Checkpoint, weights: Weights, activations: Activations) -> Self {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            weights: Some(weights),
            activations,
            ..LoadOptions::default()
        };
        Self(
            pollster::block_on(Engine::load(ckpt, &options))
                .unwrap_or_else(|error| panic!("{error}")),
        )
    }

    /// Loads a checkpoint for the CPU with its weights in the form in which they are stored.
    pub fn as_stored(ckpt: &Checkpoint, activations: Activations) -> Self {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            activations,
            ..LoadOptions::default()
        };
        Self(
            pollster::block_on(Engine::load(ckpt, &options))
                .unwrap_or_else(|error| panic!("{error}")),
        )
    }

    /// Loads a checkpoint onto the first adapter.
    ///
    /// # Panics
    /// If there is no adapter: these tests never pass by skipping.
    pub fn gpu(ckpt: &Checkpoint, options: LoadOptions) -> Self {
        let options = LoadOptions {
            device: DeviceChoice::Gpu(None),
            ..options
        };
        let engine = pollster::block_on(Engine::load(ckpt, &options));
        Self(engine.unwrap_or_else(|error| {
            panic!("this test needs a GPU adapter, a software one will do (`cargo xtask test` installs it on Debian): {error}")
        }))
    }
}

impl Runner for OnDevice {
    fn start(&mut self, layout: &Layout, tokens: &[u32]) {
        self.0.start(layout, tokens).unwrap();
    }

    fn logits(&mut self, step: &StepRows) -> Vec<f32> {
        pollster::block_on(self.0.logits(step)).unwrap()
    }

    fn score(&mut self, step: &StepRows, targets: &[u32]) -> Vec<f32> {
        pollster::block_on(self.0.score(step, targets)).unwrap()
    }

    fn step(&mut self, step: &StepRows, ids: &[u32], draw: &Draw) {
        self.0.step(step, ids, draw).unwrap();
    }

    fn tokens(&mut self) -> Vec<u32> {
        pollster::block_on(self.0.tokens()).unwrap()
    }
}

/// The unfolded network with a dense mask on a Burn device. It has no cache, so each pass must contain all rows.
pub struct Reference {
    network: Unfolded,
    config: ModelConfig,
    layout: Layout,
    tokens: Vec<u32>,
}

/// Either kind of network.
enum Unfolded {
    Published(Box<Network>),
    Decoder(Box<DecoderNetwork>),
}

impl Reference {
    /// Loads a checkpoint onto a device.
    pub fn load(ckpt: &Checkpoint, device: &Device) -> Self {
        Self {
            network: match ckpt.config().decoder {
                None => Unfolded::Published(Box::new(Network::load(ckpt, device).unwrap())),
                Some(_) => Unfolded::Decoder(Box::new(DecoderNetwork::load(ckpt, device).unwrap())),
            },
            config: ckpt.config().clone(),
            layout: Layout {
                sequences: 0,
                slots: 0,
                tokens: 0,
            },
            tokens: Vec::new(),
        }
    }
}

impl Runner for Reference {
    fn start(&mut self, layout: &Layout, tokens: &[u32]) {
        self.layout = *layout;
        self.tokens = tokens.to_vec();
    }

    fn logits(&mut self, step: &StepRows) -> Vec<f32> {
        let logits = match &self.network {
            Unfolded::Published(network) => network.forward_rows(&self.tokens, step, &self.layout),
            Unfolded::Decoder(network) => {
                network.forward_rows(&self.tokens, step, self.config.mask_index)
            }
        };
        logits.into_data().try_to_vec().unwrap()
    }

    fn score(&mut self, step: &StepRows, targets: &[u32]) -> Vec<f32> {
        let vocab = self.config.vocab_size;
        (self.logits(step).chunks(vocab).zip(targets))
            .map(|(row, &token)| log_probability(row, self.config.mask_index, token) as f32)
            .collect()
    }

    fn step(&mut self, _: &StepRows, _: &[u32], _: &Draw) {
        unimplemented!("the reference pass does not draw");
    }

    fn tokens(&mut self) -> Vec<u32> {
        self.tokens.clone()
    }

    fn has_cache(&self) -> bool {
        false
    }
}
