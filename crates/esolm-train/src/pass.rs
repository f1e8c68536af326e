//! The network's pass in training.
//!
//! The same function as [`Network::forward`], arranged for speed: the rows of a step form one matrix, only scored rows
//! go through the output layer, and the constant conditioning is folded into the matrices in every step, as inference
//! does once ([`esolm::network::fold`]). The parameters remain the published, unfolded ones; autodiff propagates
//! gradients through the folding, which costs a few passes over the parameters instead of several over the activations.

use burn::module::Param;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Int, Tensor, TensorData};
use esolm::network::{AdaLn, Network};

use crate::batch::Batch;
use crate::ops::{self, Dropout};

/// A matrix `[n_in, n_out]` and a bias `[1, n_out]`.
struct Folded {
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
}

impl Folded {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.matmul(self.weight.clone());
        match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }
}

fn row(bias: &Option<Param<Tensor<1>>>) -> Option<Tensor<2>> {
    bias.as_ref().map(|bias| bias.val().unsqueeze())
}

/// W ((n w + v) (1 + scale) + shift) + b for the normalised input n, where v is the norm's bias, if it has one.
fn fold_norm(norm: &LayerNorm, modulation: Option<[Tensor<2>; 2]>, linear: &Linear) -> Folded {
    let matrix = linear.weight.val();
    let bias = row(&linear.bias);
    let (mut weight, mut shift) = (norm.gamma.val().unsqueeze::<2>(), row(&norm.beta));
    if let Some([added, scale]) = modulation {
        let scale = scale + 1.0;
        weight = weight * scale.clone();
        shift = Some(match shift {
            Some(own) => own * scale + added,
            None => added,
        });
    }
    let shift = shift.map(|shift| shift.matmul(matrix.clone()));
    Folded {
        weight: matrix * weight.swap_dims(0, 1),
        bias: match (bias, shift) {
            (Some(bias), Some(shift)) => Some(bias + shift),
            (bias, shift) => bias.or(shift),
        },
    }
}

/// gate (W h + b).
fn fold_gate(linear: &Linear, gate: Option<Tensor<2>>) -> Folded {
    let (weight, bias) = (linear.weight.val(), row(&linear.bias));
    match gate {
        None => Folded { weight, bias },
        Some(gate) => Folded {
            weight: weight * gate.clone(),
            bias: bias.map(|bias| bias * gate),
        },
    }
}

/// The chunks of a modulation, `[1, d]` each.
fn chunks<const N: usize>(
    ada_ln: Option<&AdaLn>,
    condition: Option<&Tensor<2>>,
) -> Option<[Tensor<2>; N]> {
    let (ada_ln, condition) = ada_ln.zip(condition)?;
    let all = ada_ln.linear.forward(condition.clone());
    let width = all.dims()[1] / N;
    Some(std::array::from_fn(|i| {
        all.clone().narrow(1, i * width, width)
    }))
}

/// -log p of the scored rows' tokens, `[S]`, in nats; with dropout, if given.
pub fn scored_nll(network: &Network, batch: &Batch, dropout: Option<Dropout>) -> Tensor<1> {
    let dropout = dropout.filter(|dropout| dropout.probability > 0.0);
    let mut layer = 0;
    let mut dropped = |x: Tensor<2>| match dropout {
        Some(dropout) => {
            layer += 1;
            ops::drop_out(x, dropout.at(layer))
        }
        None => x,
    };
    let device = &network.vocab_embed.weight.val().device();
    let ints = |values: &[u32]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        let shape = [values.len()];
        Tensor::<1, Int>::from_data(TensorData::new(values, shape), device)
    };
    let condition = network.constant_condition();
    let mut x = network
        .vocab_embed
        .weight
        .val()
        .select(0, ints(&batch.tokens));
    for block in &network.blocks {
        let chunks = chunks::<6>(block.ada_ln.as_ref(), condition.as_ref());
        let (mut before_attention, mut before_mlp) = (None, None);
        let (mut gate_attention, mut gate_mlp) = (None, None);
        if let Some([shift1, scale1, gate1, shift2, scale2, gate2]) = chunks {
            before_attention = Some([shift1, scale1]);
            before_mlp = Some([shift2, scale2]);
            (gate_attention, gate_mlp) = (Some(gate1), Some(gate2));
        }
        let qkv = fold_norm(&block.norm1, before_attention, &block.attention.qkv);
        let out = fold_gate(&block.attention.out, gate_attention);
        let up = fold_norm(&block.norm2, before_mlp, &block.mlp_up);
        let down = fold_gate(&block.mlp_down, gate_mlp);

        let h = qkv.forward(ops::normalise(x.clone()));
        let h = out.forward(ops::attend(h, &batch.table));
        x = x + dropped(h);
        let h = ops::gelu(up.forward(ops::normalise(x.clone())));
        x = x + dropped(down.forward(h));
    }
    let output = &network.output_layer;
    let head = fold_norm(
        &output.norm_final,
        chunks(output.ada_ln.as_ref(), condition.as_ref()),
        &output.linear,
    );
    let x = x.select(0, ints(&batch.scored));
    ops::nll(head.forward(ops::normalise(x)), &batch.targets)
}
