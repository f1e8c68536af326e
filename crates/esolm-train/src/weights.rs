//! Parameters by name: extracted from a network, inserted into a network, written to a file.

use std::collections::BTreeMap;
use std::io::{self, Write};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use esolm::checkpoint::{Checkpoint, CheckpointError, FileError};
use esolm::config::{ModelConfig, ParamSpec};
use esolm::network::Network;
use esolm::network::fold::transpose;
use esolm_checkpoint::{Dtype, SafetensorsWriter, TensorSpec};

/// One flat tensor per parameter, by the parameter's path in [`Network`], without autodiff. Matrices are stored as in
/// Burn, `[in, out]`.
pub type Weights = BTreeMap<String, Tensor<1>>;

/// The path of the module being visited.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    pub(crate) fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    pub(crate) fn leave(&mut self) {
        self.0.pop();
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

/// A parameter's values as one row, detached from any graph.
pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    tensor.inner().reshape([count])
}

/// All parameters of a network.
pub fn of(network: &Network) -> Weights {
    struct Collect(Path, Weights);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.leave();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.insert(self.0.name(), flat(param.val()));
        }
    }
    let mut collect = Collect(Path::default(), Weights::new());
    network.visit(&mut collect);
    collect.1
}

/// The network with its parameters' values replaced; parameters missing from `weights` are unchanged.
pub fn replace(network: Network, weights: &Weights) -> Network {
    struct Replace<'a>(Path, &'a Weights);
    impl ModuleMapper for Replace<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.leave();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(values) = self.1.get(&self.0.name()) else {
                return param;
            };
            param.map(|tensor| with_values(tensor, values.clone()))
        }
    }
    network.map(&mut Replace(Path::default(), weights))
}

/// The network with gradients required for all parameters; it must be on an autodiff device.
pub fn trainable(network: Network) -> Network {
    struct Trainable;
    impl ModuleMapper for Trainable {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::from_tensor(param.into_value())
        }
    }
    network.map(&mut Trainable)
}

/// `values` in the shape of `tensor`, requiring a gradient if `tensor` does.
pub(crate) fn with_values<const D: usize>(tensor: Tensor<D>, values: Tensor<1>) -> Tensor<D> {
    let values = values.reshape(tensor.dims());
    if tensor.device().is_autodiff() {
        Tensor::from_inner(values).set_require_grad(tensor.is_require_grad())
    } else {
        values
    }
}

/// The published name of a parameter, without `backbone.`, and whether PyTorch stores its transpose.
fn published(path: &str) -> (String, bool) {
    let transposed = path.ends_with(".weight") && path != "vocab_embed.weight";
    let mut name = path.replace("vocab_embed.weight", "vocab_embed.embedding");
    for (ours, theirs) in [
        ("attention.qkv", "attn_qkv"),
        ("attention.out", "attn_out"),
        ("ada_ln.linear", "adaLN_modulation"),
        ("sigma_map.mlp_in", "sigma_map.mlp.0"),
        ("sigma_map.mlp_out", "sigma_map.mlp.2"),
        ("mlp_up", "mlp.0"),
        ("mlp_down", "mlp.2"),
        ("gamma", "weight"),
        ("beta", "bias"),
    ] {
        name = name.replace(ours, theirs);
    }
    (name, transposed)
}

/// The weights as a checkpoint in the published form.
///
/// # Errors
/// If they do not match `config`.
pub fn checkpoint(weights: &Weights, config: &ModelConfig) -> Result<Checkpoint, CheckpointError> {
    let mut values: BTreeMap<String, (Vec<f32>, bool)> = weights
        .iter()
        .map(|(path, tensor)| {
            let (name, transposed) = published(path);
            (name, (host(tensor.clone()), transposed))
        })
        .collect();
    let mut tensors = Vec::new();
    for parameter in specs(config, |name| values.contains_key(name)) {
        let Some((mut values, transposed)) = values.remove(&parameter.name) else {
            continue; // the checkpoint's own check names what is missing
        };
        if let (true, [n_out, n_in]) = (transposed, parameter.shape.as_slice()) {
            values = transpose(&values, *n_in, *n_out);
        }
        tensors.push((parameter, values));
    }
    assemble(&tensors, config)
}

/// The parameters of a network for which `is_there` is true: the published ones, and biases that only some networks
/// have.
pub(crate) fn specs(config: &ModelConfig, is_there: impl Fn(&str) -> bool) -> Vec<ParamSpec> {
    let mut all = config.parameters();
    let biases = config.biases().into_iter().flatten();
    let more: Vec<ParamSpec> = biases.filter(|bias| !all.contains(bias)).collect();
    all.extend(more);
    all.retain(|spec| is_there(&spec.name));
    all
}

/// A checkpoint from parameters in their published form.
///
/// # Errors
/// If they do not match `config`.
pub(crate) fn assemble(
    tensors: &[(ParamSpec, Vec<f32>)],
    config: &ModelConfig,
) -> Result<Checkpoint, CheckpointError> {
    let in_memory = |error| FileError::io("write", "model.safetensors".as_ref(), error);
    let specs: Vec<_> = tensors
        .iter()
        .map(|(parameter, _)| {
            let name = format!("backbone.{}", parameter.name);
            TensorSpec::new(name, Dtype::F32, parameter.shape.as_slice())
        })
        .collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), &[], &specs).map_err(in_memory)?;
    for (_, values) in tensors {
        writer.f32(values).map_err(in_memory)?;
    }
    let bytes = writer.finish().map_err(in_memory)?;
    Checkpoint::from_safetensors_bytes(&config.to_json(), bytes)
}

/// A tensor's values in host memory.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec::<f32>()
        .expect("the tensors of training are f32")
}

/// Writes a safetensors file of flat f32 tensors and returns its sink.
pub(crate) fn write_f32<W: Write>(
    sink: W,
    metadata: &[(&str, &str)],
    tensors: &[(String, &Tensor<1>)],
) -> io::Result<W> {
    let specs: Vec<_> = tensors
        .iter()
        .map(|(name, values)| TensorSpec::new(name, Dtype::F32, values.dims()))
        .collect();
    let mut writer = SafetensorsWriter::new(sink, metadata, &specs)?;
    for (_, values) in tensors {
        writer.f32(&host((*values).clone()))?;
    }
    writer.finish()
}
