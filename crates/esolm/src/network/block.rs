//! One transformer block (`DDiTBlock`) and the output layer (`DDiTFinalLayer`) of models/dit.py.

use burn::module::Module;
use burn::nn::{Dropout, LayerNorm, Linear};
use burn::tensor::{Tensor, activation::sigmoid};

use super::{Attention, Context};

/// adaLN: a linear map of the conditioning vector to shift, scale and, inside a block, gate (arXiv 2212.09748).
#[derive(Module, Debug)]
pub struct AdaLn {
    /// `adaLN_modulation`, `cond_dim` to 6d in a block, 2d in the output layer.
    pub linear: Linear,
}

/// Shift and scale of one modulation, `[B, 1, d]` each.
pub struct Modulation {
    /// Added after the scale.
    pub shift: Tensor<3>,
    /// The normalised input is multiplied by 1 + scale.
    pub scale: Tensor<3>,
}

impl AdaLn {
    /// The chunks for a condition `[B, 1, cond_dim]`, `[B, 1, d]` each.
    fn chunks<const N: usize>(&self, condition: Tensor<3>) -> [Tensor<3>; N] {
        let all = self.linear.forward(condition);
        let width = all.dims()[2] / N;
        std::array::from_fn(|i| all.clone().narrow(2, i * width, width))
    }
}

/// x (1 + scale) + shift.
fn modulate(x: Tensor<3>, modulation: Option<Modulation>) -> Tensor<3> {
    match modulation {
        Some(Modulation { shift, scale }) => x * (scale + 1.0) + shift,
        None => x,
    }
}

/// x times the gate, if there is one.
fn gated(x: Tensor<3>, gate: Option<Tensor<3>>) -> Tensor<3> {
    match gate {
        Some(gate) => x * gate,
        None => x,
    }
}

/// GELU in its tanh form, x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), computed as x sigmoid(2u): the
/// sigmoid overflows on no device, while Metal's tanh does.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cubic = x.clone() * (x.clone().square() * 0.044715 + 1.0);
    x * sigmoid(cubic * (8.0 / std::f64::consts::PI).sqrt())
}

/// Attention and MLP, each with normalisation and modulation before it and a gate after it, added to the residual
/// stream.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention, eps 1e-5; the published models have only a weight.
    pub norm1: LayerNorm,
    /// Attention with its two projections.
    pub attention: Attention,
    /// Norm before the MLP.
    pub norm2: LayerNorm,
    /// `mlp.0`, d to 4d.
    pub mlp_up: Linear,
    /// `mlp.2`, 4d to d.
    pub mlp_down: Linear,
    /// Shift, scale and gate of attention, then of the MLP; `None` without adaLN.
    pub ada_ln: Option<AdaLn>,
    /// Only active in training.
    pub dropout: Dropout,
}

impl Block {
    /// The hidden state `[B, R, d]` after this block.
    pub fn forward(&self, x: Tensor<3>, context: &Context) -> Tensor<3> {
        let (mut before_attention, mut gate_attention) = (None, None);
        let (mut before_mlp, mut gate_mlp) = (None, None);
        if let (Some(ada_ln), Some(condition)) = (&self.ada_ln, &context.condition) {
            let [shift1, scale1, gate1, shift2, scale2, gate2] = ada_ln.chunks(condition.clone());
            before_attention = Some(Modulation {
                shift: shift1,
                scale: scale1,
            });
            before_mlp = Some(Modulation {
                shift: shift2,
                scale: scale2,
            });
            (gate_attention, gate_mlp) = (Some(gate1), Some(gate2));
        }

        let h = modulate(self.norm1.forward(x.clone()), before_attention);
        let h = self.dropout.forward(self.attention.forward(h, context));
        let x = x + gated(h, gate_attention);

        let h = modulate(self.norm2.forward(x.clone()), before_mlp);
        let h = self.mlp_down.forward(gelu_tanh(self.mlp_up.forward(h)));
        x + gated(self.dropout.forward(h), gate_mlp)
    }
}

/// Final norm, modulation, and logits.
#[derive(Module, Debug)]
pub struct OutputLayer {
    /// eps 1e-5; the published models have only a weight.
    pub norm_final: LayerNorm,
    /// d to V, with bias.
    pub linear: Linear,
    /// Shift and scale; `None` without adaLN.
    pub ada_ln: Option<AdaLn>,
}

impl OutputLayer {
    /// Logits `[B, R, V]` of the hidden state `[B, R, d]`, given the condition `[B, 1, cond_dim]`.
    pub fn forward(&self, x: Tensor<3>, condition: Option<Tensor<3>>) -> Tensor<3> {
        let modulation = self.ada_ln.as_ref().zip(condition).map(|(ada_ln, c)| {
            let [shift, scale] = ada_ln.chunks(c);
            Modulation { shift, scale }
        });
        self.linear
            .forward(modulate(self.norm_final.forward(x), modulation))
    }
}
