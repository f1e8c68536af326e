//! The operations between matrix products, with hand-written gradients.
//!
//! Composed of Burn's elementary operations, each of these would pass over the activations five to fifteen times,
//! forward and backward, which on a CPU costs more than the products. On Burn's CPU backend (Flex) each is therefore a
//! single operation in the autodiff graph, a loop over host memory; on other devices the same functions are composed of
//! Burn's operations. Tests compare the two, values and gradients.

mod attention;
mod dropout;
mod likelihood;
mod rows;

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};

pub use attention::{Span, Table};
pub use dropout::Dropout;
pub use likelihood::Targets;

/// Operations that Flex computes in a single pass. Activations are `[R, width]`, with the rows of all sequences
/// concatenated.
#[backend_extension(Flex, Autodiff)]
pub trait RowOps: Backend {
    /// (x - mean) / sqrt(var + 1e-5) of each row.
    fn normalise(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradient of [`RowOps::normalise`].
    fn normalise_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// GELU, tanh form.
    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradient of [`RowOps::gelu_tanh`].
    fn gelu_tanh_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Rotary prefix attention: `[R, 3d]` to `[R, d]`.
    fn attend(qkv: FloatTensor<Self>, table: Arc<Table>) -> FloatTensor<Self>;
    /// Gradient of [`RowOps::attend`].
    fn attend_backward(
        qkv: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        table: Arc<Table>,
    ) -> FloatTensor<Self>;
    /// Multiplies each entry by its factor of [`Dropout`]; the gradient is the same operation.
    fn drop_out(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;
    /// -log p of each row's target: logits `[S, V]` to `[S]`.
    fn nll(logits: FloatTensor<Self>, targets: Arc<Targets>) -> FloatTensor<Self>;
    /// Gradient of [`RowOps::nll`].
    fn nll_backward(
        logits: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        targets: Arc<Targets>,
    ) -> FloatTensor<Self>;
}

/// Applies `f` to the values of `inputs`, all `[.., width]`; `f(inputs, out)` fills an output with shape `shape`.
fn over<const N: usize>(
    inputs: [FlexTensor; N],
    shape: Vec<usize>,
    f: impl FnOnce([&[f32]; N], &mut [f32]),
) -> FlexTensor {
    let inputs = inputs.map(|input| input.to_contiguous());
    let slices = inputs
        .each_ref()
        .map(|input| input.as_slice().expect("it was made contiguous, of f32"));
    let mut out = vec![0.0; shape.iter().product()];
    f(slices, &mut out);
    FlexTensor::from_data(TensorData::new(out, shape))
}

fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

impl RowOps for Flex {
    fn normalise(x: FlexTensor) -> FlexTensor {
        let shape = shape(&x);
        over([x], shape.clone(), |[x], out| {
            rows::normalise(x, out, shape[1])
        })
    }

    fn normalise_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let shape = shape(&x);
        over([x, grad], shape.clone(), |[x, grad], out| {
            rows::normalise_backward(x, grad, out, shape[1]);
        })
    }

    fn gelu_tanh(x: FlexTensor) -> FlexTensor {
        let shape = shape(&x);
        over([x], shape, |[x], out| rows::gelu(x, out))
    }

    fn gelu_tanh_backward(x: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let shape = shape(&x);
        over([x, grad], shape, |[x, grad], out| {
            rows::gelu_backward(x, grad, out);
        })
    }

    fn attend(qkv: FlexTensor, table: Arc<Table>) -> FlexTensor {
        let shape = shape(&qkv);
        over([qkv], vec![shape[0], shape[1] / 3], |[qkv], out| {
            table.forward(qkv, out);
        })
    }

    fn attend_backward(qkv: FlexTensor, grad: FlexTensor, table: Arc<Table>) -> FlexTensor {
        let shape = shape(&qkv);
        over([qkv, grad], shape, |[qkv, grad], out| {
            table.backward(qkv, grad, out);
        })
    }

    fn drop_out(x: FlexTensor, dropout: Dropout) -> FlexTensor {
        let shape = shape(&x);
        over([x], shape, |[x], out| dropout.apply(x, out))
    }

    fn nll(logits: FlexTensor, targets: Arc<Targets>) -> FlexTensor {
        let shape = shape(&logits);
        over([logits], vec![shape[0]], |[logits], out| {
            targets.forward(logits, out);
        })
    }

    fn nll_backward(logits: FlexTensor, grad: FlexTensor, targets: Arc<Targets>) -> FlexTensor {
        let shape = shape(&logits);
        over([logits, grad], shape, |[logits, grad], out| {
            targets.backward(logits, grad, out);
        })
    }
}

/// A backward step that needs the operation's input and one argument, in addition to the output's gradient.
trait Gradient<B: RowOps>: Clone + Send + Debug + 'static {
    fn gradient(self, input: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B>;
}

#[derive(Debug)]
struct Step<G>(G);

impl<B: RowOps, G: Gradient<B>> Backward<B, 1> for Step<G> {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let input = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        unary::<B, _>(ops.parents, ops.node, grads, |grad| {
            self.0.gradient(input, grad)
        });
    }
}

/// Adds an operation with one input to the graph.
fn tracked<B: RowOps, C: CheckpointStrategy, G: Gradient<B>>(
    input: FloatTensor<Autodiff<B, C>>,
    gradient: G,
    forward: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let prepared = Step(gradient).prepare::<C>([input.node()]).compute_bound();
    match prepared.stateful() {
        OpsKind::Tracked(mut prepared) => {
            let state = prepared.checkpoint(&input);
            prepared.finish(state, forward(input.into_primitive()))
        }
        OpsKind::UnTracked(prepared) => prepared.finish(forward(input.into_primitive())),
    }
}

#[derive(Clone, Debug)]
struct Normalise;
#[derive(Clone, Debug)]
struct Gelu;
#[derive(Clone, Debug)]
struct Attend(Arc<Table>);
/// A step that needs no input: the mask is recomputed.
#[derive(Debug)]
struct DropStep;

impl<B: RowOps> Backward<B, 1> for DropStep {
    type State = Dropout;

    fn backward(self, ops: Ops<Dropout, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| {
            B::drop_out(grad, ops.state)
        });
    }
}

#[derive(Clone, Debug)]
struct Nll(Arc<Targets>);

impl<B: RowOps> Gradient<B> for Normalise {
    fn gradient(self, input: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        B::normalise_backward(input, grad)
    }
}

impl<B: RowOps> Gradient<B> for Gelu {
    fn gradient(self, input: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        B::gelu_tanh_backward(input, grad)
    }
}

impl<B: RowOps> Gradient<B> for Attend {
    fn gradient(self, input: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        B::attend_backward(input, grad, self.0)
    }
}

impl<B: RowOps> Gradient<B> for Nll {
    fn gradient(self, input: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
        B::nll_backward(input, grad, self.0)
    }
}

/// The same restriction as for Burn's own first-order gradients.
const TWICE: &str = "the gradients of these operations cannot be differentiated again";

impl<B: RowOps, C: CheckpointStrategy> RowOps for Autodiff<B, C> {
    fn normalise(x: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, C, _>(x, Normalise, B::normalise)
    }

    fn normalise_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("{TWICE}")
    }

    fn gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        tracked::<B, C, _>(x, Gelu, B::gelu_tanh)
    }

    fn gelu_tanh_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("{TWICE}")
    }

    fn attend(qkv: FloatTensor<Self>, table: Arc<Table>) -> FloatTensor<Self> {
        tracked::<B, C, _>(qkv, Attend(table.clone()), |qkv| B::attend(qkv, table))
    }

    fn attend_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Table>,
    ) -> FloatTensor<Self> {
        panic!("{TWICE}")
    }

    fn drop_out(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
        let prepared = DropStep.prepare::<C>([x.node()]).compute_bound();
        match prepared.stateful() {
            OpsKind::Tracked(prepared) => {
                prepared.finish(dropout, B::drop_out(x.into_primitive(), dropout))
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::drop_out(x.into_primitive(), dropout))
            }
        }
    }

    fn nll(logits: FloatTensor<Self>, targets: Arc<Targets>) -> FloatTensor<Self> {
        tracked::<B, C, _>(logits, Nll(targets.clone()), |logits| {
            B::nll(logits, targets)
        })
    }

    fn nll_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Arc<Targets>,
    ) -> FloatTensor<Self> {
        panic!("{TWICE}")
    }
}

/// Whether this device's tensors are in host memory, where [`RowOps`] is available.
pub fn on_host(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}

/// (x - mean) / sqrt(var + 1e-5) of each row of `[R, d]`: a LayerNorm whose weight is folded into the matrix that follows.
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    if on_host(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as RowOps>::normalise(x.into_dispatch()));
    }
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    centred / (variance + 1e-5).sqrt()
}

/// Elementwise GELU in its tanh form.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    if on_host(&x.device()) {
        return Tensor::from_dispatch(<Dispatch as RowOps>::gelu_tanh(x.into_dispatch()));
    }
    esolm::network::gelu_tanh(x)
}

/// Rotary prefix attention of `qkv` `[R, 3d]`, columns (three, head, head_dim), to `[R, d]`.
pub fn attend(qkv: Tensor<2>, table: &Arc<Table>) -> Tensor<2> {
    if on_host(&qkv.device()) {
        let out = <Dispatch as RowOps>::attend(qkv.into_dispatch(), table.clone());
        return Tensor::from_dispatch(out);
    }
    attention::composed(qkv, table)
}

/// `x` `[R, width]` with a fraction of its entries set to zero and the others scaled up accordingly.
pub fn drop_out(x: Tensor<2>, dropout: Dropout) -> Tensor<2> {
    if on_host(&x.device()) {
        let out = <Dispatch as RowOps>::drop_out(x.into_dispatch(), dropout);
        return Tensor::from_dispatch(out);
    }
    dropout::composed(x, dropout)
}

/// -log p of each row's target given `logits` `[S, V]`, excluding the mask token: `[S]`.
pub fn nll(logits: Tensor<2>, targets: &Arc<Targets>) -> Tensor<1> {
    if on_host(&logits.device()) {
        let out = <Dispatch as RowOps>::nll(logits.into_dispatch(), targets.clone());
        return Tensor::from_dispatch(out);
    }
    likelihood::composed(logits, targets)
}
