//! Training: its losses compared with the published code's, its gradients with finite differences of the loss, and the
//! CPU's operations with those composed of Burn's own, on a GPU adapter.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use esolm::checkpoint::Checkpoint;
use esolm::config::{Family, Prepend};
use esolm::forward_process::{Uniforms, antithetic_times};
use esolm::network::Network;
use esolm::passes::log_probability;
use esolm_tests::golden::{with_biases, without_biases};
use esolm_tests::halves::Published;
use esolm_tests::losses::{close, f64s, uniforms};
use esolm_tests::{Golden, checkpoint, halves, sets, sets_sampling};
use esolm_train::loss::{BlockNoise, Losses, Noise, Objective};
use esolm_train::recipe::LossKind;
use esolm_train::weights::{self, Weights};

const L: usize = 32;
/// The opening token in the recorded AR losses.
const BOS: u32 = 95;

fn cpu() -> Device {
    Device::flex()
}

fn gpu() -> Device {
    pollster::block_on(esolm::device::tensors("gpu".parse().unwrap()))
        .unwrap_or_else(|error| panic!("{error}"))
        .0
}

fn objective(ckpt: &Checkpoint, alpha_0: f64, kind: LossKind) -> Objective {
    Objective {
        config: ckpt.config().clone(),
        alpha_0,
        kind,
    }
}

struct Case {
    golden: Golden,
    texts: Vec<Vec<u32>>,
    valid: Vec<bool>,
}

impl Case {
    fn open() -> Self {
        let golden = Golden::open("losses");
        Self {
            texts: golden.rows("x0"),
            valid: golden
                .f32("valid_tokens")
                .iter()
                .map(|&v| v > 0.0)
                .collect(),
            golden,
        }
    }

    /// The weighted -log p of scored rows, and the parts of the loss.
    fn run(
        &self,
        network: &Network,
        objective: &Objective,
        noise: &Noise,
        masked: bool,
    ) -> (Vec<f64>, Losses) {
        let texts: Vec<&[u32]> = self.texts.iter().map(Vec::as_slice).collect();
        let valid = |row: usize, p: u32| !masked || self.valid[row * L + p as usize];
        let prepared = objective.prepare(&texts, noise, valid);
        let (loss, nll) = prepared.loss(network, None).expect("something is masked");
        let losses = prepared.losses(nll.clone());
        let loss: f32 = loss.into_scalar();
        assert!((f64::from(loss) - losses.total()).abs() < 1e-5 * losses.total());
        let nll: Vec<f32> = nll.into_data().try_into_vec().unwrap();
        let weights = prepared.batch.weights.iter();
        let weighted = nll
            .iter()
            .zip(weights)
            .map(|(&n, &w)| f64::from(n) * f64::from(w));
        (weighted.collect(), losses)
    }

    /// Compares the weighted -log p of scored rows with the golden table's entries that are not zero.
    fn check(&self, name: &str, got: &[f64]) {
        let want: Vec<f32> = self.golden.f32(name);
        let want: Vec<f32> = want.into_iter().filter(|&v| v != 0.0).collect();
        assert_eq!(got.len(), want.len(), "{name}");
        for (&got, &want) in got.iter().zip(&want) {
            close(name, got, want);
        }
    }
}

fn golden_losses_on(device: &Device) {
    let case = Case::open();
    let golden = &case.golden;
    let model_a = checkpoint("model_a");
    let network = Network::load(&model_a, device).unwrap();
    for (name, alpha_0) in [("diffusion.a05", 0.5), ("diffusion.a1", 1.0)] {
        for (kind, table) in [
            (LossKind::Elbo, "nll_elbo"),
            (LossKind::LowVar, "nll_low_var"),
        ] {
            let noise = Noise {
                times: antithetic_times(&f64s(golden, &format!("{name}.u_t"))),
                diffusion: uniforms(golden, name, true),
                ..Noise::default()
            };
            let (got, _) = case.run(&network, &objective(&model_a, alpha_0, kind), &noise, false);
            case.check(&format!("{name}.{table}"), &got);
        }
    }
    let noise = Noise {
        sequential: uniforms(golden, "reconstruction.shuffle", true),
        ..Noise::default()
    };
    let half = objective(&model_a, 0.5, LossKind::Elbo);
    let (got, _) = case.run(&network, &half, &noise, false);
    case.check("reconstruction.shuffle.loss", &got);

    let noise = Noise {
        times: antithetic_times(&f64s(golden, "loss_half.diff.u_t")),
        diffusion: uniforms(golden, "loss_half.diff", true),
        sequential: uniforms(golden, "loss_half.seq", true),
        ..Noise::default()
    };
    let (_, losses) = case.run(&network, &half, &noise, true);
    close("loss_half", losses.total(), golden.f32("loss_half.loss")[0]);

    let mdlm = checkpoint("mdlm");
    let network = Network::load(&mdlm, device).unwrap();
    for (kind, table) in [
        (LossKind::Elbo, "nll_elbo"),
        (LossKind::LowVar, "nll_low_var"),
    ] {
        let noise = Noise {
            times: antithetic_times(&f64s(golden, "mdlm.u_t")),
            diffusion: uniforms(golden, "mdlm", false),
            ..Noise::default()
        };
        let (got, _) = case.run(&network, &objective(&mdlm, 1.0, kind), &noise, false);
        case.check(&format!("mdlm.{table}"), &got);
    }

    // An AR model that reads a token before the text predicts the first one too.
    let ar = checkpoint("ar");
    let network = Network::load(&ar, device).unwrap();
    for (name, prepend) in [
        ("ar.none", Prepend::None),
        ("ar.bos", Prepend::Bos),
        ("ar.mask", Prepend::Mask),
    ] {
        let mut all = objective(&ar, 1.0, LossKind::Elbo);
        all.config.prepend = prepend;
        all.config.bos = Some(BOS);
        let (got, _) = case.run(&network, &all, &Noise::default(), false);
        case.check(&format!("{name}.nll"), &got);
        let (_, losses) = case.run(&network, &all, &Noise::default(), true);
        let name = format!("{name}.loss");
        close(&name, losses.total(), golden.f32(&name)[0]);
    }
}

#[test]
fn golden_losses_on_the_cpu() {
    golden_losses_on(&cpu());
}

#[test]
fn golden_losses_on_a_gpu() {
    golden_losses_on(&gpu());
}

/// Networks with biases everywhere, also in norms, and with none: the training pass gives the same as the plain pass
/// over all rows.
#[test]
fn other_biases_are_trained_with() {
    let golden = Golden::open("losses");
    let texts = golden.rows("x0");
    for checkpoint in [
        with_biases("model_a"),
        without_biases("model_a"),
        with_biases("ar"),
    ] {
        let network = Network::load(&checkpoint, &cpu()).unwrap();
        let mut objective = objective(&checkpoint, 1.0, LossKind::Elbo);
        objective.config.family = Family::Ar;
        objective.config.prepend = Prepend::None;
        let text = texts[0].as_slice();
        let prepared = objective.prepare(&[text], &Noise::default(), |_, _| true);
        let (_, nll) = prepared.loss(&network, None).expect("all is predicted");
        let nll: Vec<f32> = nll.into_data().try_into_vec().unwrap();

        let rows = text.len() - 1;
        let ints = |values: Vec<i32>| {
            let values = TensorData::new(values, [1, rows]);
            Tensor::<2, Int>::from_data(values, &cpu())
        };
        let tokens = ints(text[..rows].iter().map(|&token| token as i32).collect());
        let positions = ints((0..rows as i32).collect());
        let causal: Vec<bool> = (0..rows * rows).map(|i| i % rows <= i / rows).collect();
        let mask = Tensor::<3, Bool>::from_data(TensorData::new(causal, [1, rows, rows]), &cpu());
        let logits = network.forward(tokens, positions, Some(mask), None);
        let logits: Vec<f32> = logits.into_data().try_into_vec().unwrap();
        let config = checkpoint.config();
        assert_eq!(nll.len(), rows);
        for ((got, row), &token) in nll
            .iter()
            .zip(logits.chunks(config.vocab_size))
            .zip(&text[1..])
        {
            let want = -log_probability(row, config.mask_index, token) as f32;
            assert!((got - want).abs() < 1e-4, "{got} is not {want}");
        }
    }
}

/// The losses of a BD3-LM, for any block size, with clipped and unclipped noise.
fn golden_family_losses_on(device: &Device) {
    for (golden, ckpt) in halves::likelihoods() {
        let network = Network::load(&ckpt, device).unwrap();
        let texts = golden.rows("x0");
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let length = texts[0].len();
        for Published { name, noised, .. } in halves::published(&golden) {
            let noise = Noise {
                blocks: noised,
                ..Noise::default()
            };
            let counted = golden.f32(&format!("{name}.token_mask"));
            let valid = |row: usize, p: u32| counted[row * length + p as usize] > 0.0;
            let objective = objective(&ckpt, 1.0, LossKind::Elbo);
            let prepared = objective.prepare(&texts, &noise, valid);
            let (_, nll) = prepared.loss(&network, None).expect("something is masked");
            let loss = prepared.losses(nll).total();
            let name = format!("{name}.loss");
            close(&name, loss, golden.f32(&name)[0]);
        }
    }
}

#[test]
fn golden_family_losses_on_the_cpu() {
    golden_family_losses_on(&cpu());
}

#[test]
fn golden_family_losses_on_a_gpu() {
    golden_family_losses_on(&gpu());
}

/// The loss of a SetDLM, token by token in the recorded orders.
fn golden_set_losses_on(device: &Device) {
    for (golden, ckpt) in sets::likelihoods() {
        let network = Network::load(&ckpt, device).unwrap();
        let (x0, perm) = (golden.rows("x0"), golden.rows("setdlm.perm"));
        let length = x0[0].len();
        let (counted, want) = (golden.rows("setdlm.tokens_mask"), golden.f32("setdlm.nlls"));
        let texts: Vec<&[u32]> = x0.iter().map(Vec::as_slice).collect();
        let noise = Noise {
            orders: perm.clone(),
            ..Noise::default()
        };
        let counts = |row: usize, place: usize| counted[row][place - 1] == 1;
        let valid = |row: usize, p: u32| {
            let place = perm[row].iter().position(|&q| q == p).unwrap();
            place > 0 && counts(row, place)
        };
        let objective = objective(&ckpt, 1.0, LossKind::Elbo);
        let prepared = objective.prepare(&texts, &noise, valid);
        let (_, nll) = prepared.loss(&network, None).expect("all is masked");
        let got: Vec<f32> = nll.into_data().try_into_vec().unwrap();
        let places = (0..x0.len()).flat_map(|row| (1..length).map(move |place| (row, place)));
        let wanted = places.filter(|&(row, place)| counts(row, place));
        let wanted: Vec<f32> = wanted
            .map(|(row, place)| want[row * (length - 1) + place - 1])
            .collect();
        assert_eq!(got.len(), wanted.len());
        for (got, want) in got.into_iter().zip(wanted) {
            close("setdlm.nlls", got.into(), want);
        }
    }
}

#[test]
fn golden_set_losses_on_the_cpu() {
    golden_set_losses_on(&cpu());
}

#[test]
fn golden_set_losses_on_a_gpu() {
    golden_set_losses_on(&gpu());
}

/// A network for each kind of attention.
fn networks() -> Vec<Checkpoint> {
    let (_, blocks) = halves::likelihoods().swap_remove(0);
    vec![checkpoint("model_a"), blocks, sets_sampling::checkpoint()]
}

/// The hybrid loss of four texts, two per half, or the loss of a BD3-LM or a SetDLM, with its gradient by parameter.
fn loss_and_gradient(network: &Network, ckpt: &Checkpoint) -> (f64, BTreeMap<String, Vec<f64>>) {
    let golden = Golden::open("losses");
    let texts = golden.rows("x0");
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let noise = match ckpt.config().block_size {
        Some(size) => {
            let (range, resample) = (BlockNoise::WHOLE, false);
            let blocks = BlockNoise {
                size,
                range,
                resample,
            };
            Noise::draw_blocks(7, 0, 4, L, &blocks)
        }
        None if ckpt.config().sets.is_some() => Noise::draw_orders(7, 0, 4, L, ckpt.config()),
        None => Noise::draw(7, 0, 2, 2, L),
    };
    let prepared = objective(ckpt, 0.5, LossKind::Elbo).prepare(&texts, &noise, |_, _| true);
    let (loss, nll) = prepared.loss(network, None).expect("something is masked");
    let value = prepared.losses(nll).total();
    if !loss.device().is_autodiff() {
        return (value, BTreeMap::new());
    }
    struct Collect<'a>(&'a GradientsParams, Vec<String>, BTreeMap<String, Vec<f64>>);
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.1.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).expect("every parameter has one");
            let values: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
            let values = values.into_iter().map(f64::from).collect();
            self.2.insert(self.1.join("."), values);
        }
    }
    let gradients = GradientsParams::from_grads(loss.backward(), network);
    let mut collect = Collect(&gradients, Vec::new(), BTreeMap::new());
    network.visit(&mut collect);
    (value, collect.2)
}

fn trainable(ckpt: &Checkpoint, device: Device) -> Network {
    weights::trainable(Network::load(ckpt, &device.autodiff()).unwrap())
}

fn norm<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Along each parameter's own gradient, and along random directions of all parameters together, the loss changes as
/// predicted by the gradient.
#[test]
fn gradient_against_finite_differences() {
    networks().iter().for_each(check_differences);
}

fn check_differences(ckpt: &Checkpoint) {
    let network = trainable(ckpt, cpu());
    let (_, gradient) = loss_and_gradient(&network, ckpt);
    let plain = Network::load(ckpt, &cpu()).unwrap();
    let weights = weights::of(&plain);
    let slope = |direction: &BTreeMap<String, Vec<f64>>, change: f64| {
        let length = norm(direction.values().flatten());
        let along = gradient.iter().map(|(name, g)| {
            let d = direction.get(name);
            d.map_or(0.0, |d| g.iter().zip(d).map(|(g, d)| g * d).sum::<f64>())
        });
        let along = along.sum::<f64>() / length;
        // A step large enough for a measurable change in f32, and small enough for it to be linear.
        let step = change / norm(gradient.values().flatten()).max(along.abs());
        let moved = |sign: f64| {
            let moved: Weights = weights
                .iter()
                .filter_map(|(name, values)| {
                    let d = direction.get(name)?;
                    let d: Vec<f32> = d
                        .iter()
                        .map(|d| (sign * step * d / length) as f32)
                        .collect();
                    let d = Tensor::<1>::from_floats(d.as_slice(), &cpu());
                    Some((name.clone(), values.clone() + d))
                })
                .collect();
            loss_and_gradient(&weights::replace(plain.clone(), &moved), ckpt).0
        };
        (along, (moved(1.0) - moved(-1.0)) / (2.0 * step))
    };
    let whole = norm(gradient.values().flatten());
    for (name, values) in &gradient {
        let own = norm(values);
        assert!(own > 0.0, "{name} has no gradient");
        let direction = BTreeMap::from([(name.clone(), values.clone())]);
        let (along, measured) = slope(&direction, 0.02);
        assert!(
            (along - measured).abs() < 0.02 * along + 2e-4 * whole,
            "{name}: gradient {along}, difference {measured}"
        );
    }
    for seed in 0..8 {
        let mut numbers = Uniforms::draw(seed, 0, 0, esolm::forward_process::Part::Order, 1 << 20)
            .mask
            .into_iter();
        let direction = gradient
            .iter()
            .map(|(name, g)| {
                let random = numbers.by_ref().take(g.len()).map(|u| u - 0.5);
                (name.clone(), random.collect())
            })
            .collect();
        let (along, measured) = slope(&direction, 0.02);
        assert!(
            (along - measured).abs() < 2e-3 * whole,
            "direction {seed}: gradient {along}, difference {measured}, norm {whole}"
        );
    }
}

/// The CPU's operations have their own gradients; on a GPU, everything is composed of Burn's operations. Both agree.
#[test]
fn gradients_on_cpu_and_gpu_agree() {
    for ckpt in networks() {
        let (on_cpu, cpu_gradient) = loss_and_gradient(&trainable(&ckpt, cpu()), &ckpt);
        let (on_gpu, gpu_gradient) = loss_and_gradient(&trainable(&ckpt, gpu()), &ckpt);
        assert!((on_cpu - on_gpu).abs() < 1e-5 * on_cpu, "{on_cpu} {on_gpu}");
        for (name, ours) in &cpu_gradient {
            let theirs = &gpu_gradient[name];
            let difference: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
            let relative = norm(&difference) / norm(ours);
            assert!(relative < 1e-4, "{name}: {relative}");
        }
    }
}
