//! The reference pass (Burn modules, dense masks) compared with the published code's golden numbers.

use burn::tensor::{Device, Tensor, TensorData};
use esolm::network::{Network, fold::Folding};
use esolm_tests::checks::{GOLDEN, assert_close};
use esolm_tests::{Golden, Reference, checkpoint, checks, decoders, family, halves, losses};

#[test]
fn golden_forward() {
    for (model, count) in [("model_a", 14), ("mdlm", 1), ("ar", 1)] {
        let mut runner = Reference::load(&checkpoint(model), &Device::flex());
        let (cases, largest) = checks::check_forward(model, &mut runner);
        println!("{model}: {cases} cases, largest difference {largest:e}");
        assert_eq!(cases, count);
    }
}

#[test]
fn golden_family_forward() {
    let ran = family::check_forward(|ckpt| Box::new(Reference::load(ckpt, &Device::flex())));
    println!("{ran} cases");
}

/// Decoders of the Qwen3, Qwen2 and Llama kinds.
#[test]
fn golden_llm_forward() {
    let [cases, passes] =
        decoders::check_forward(|ckpt| Box::new(Reference::load(ckpt, &Device::flex())));
    println!("{cases} cases, {passes} passes");
}

/// Hidden states, keys and values of the unfolded decoders.
#[test]
fn golden_llm_states() {
    println!("{} arrays", decoders::check_states(&Device::flex()));
}

#[test]
fn golden_family_likelihood() {
    let ran = halves::check_likelihood(|ckpt| Box::new(Reference::load(ckpt, &Device::flex())));
    println!("{ran} cases");
}

#[test]
fn golden_losses() {
    let ar = checkpoint("ar");
    let largest = [
        losses::check_model_a(&mut Reference::load(
            &checkpoint("model_a"),
            &Device::flex(),
        )),
        losses::check_mdlm(&mut Reference::load(&checkpoint("mdlm"), &Device::flex())),
        losses::check_ar(ar.config(), &mut Reference::load(&ar, &Device::flex())),
    ];
    println!("largest relative differences {largest:?}");
}

/// Hidden states, conditioning vectors and logits under a non-zero sigma of one case, in batch form.
#[test]
fn golden_states() {
    let device = Device::flex();
    let ckpt = checkpoint("model_a");
    let network = Network::load(&ckpt, &device).unwrap();
    let golden = Golden::open("forward_model_a");
    let ints = |name: &str| {
        let shape = golden.shape(name).to_vec();
        let values: Vec<i32> = golden.u32(name).into_iter().map(|v| v as i32).collect();
        Tensor::<2, burn::tensor::Int>::from_data(TensorData::new(values, shape), &device)
    };
    let (tokens, positions) = (ints("uneven.zt_sorted"), ints("uneven.sort_idx"));
    let [batch, rows] = tokens.dims();
    let causal: Vec<bool> = (0..batch * rows * rows)
        .map(|i| i % rows <= i / rows % rows)
        .collect();
    let mask = Tensor::from_data(TensorData::new(causal, [batch, rows, rows]), &device);
    let check = |name: &str, tensor: Tensor<3>| {
        let got: Vec<f32> = tensor.into_data().try_to_vec().unwrap();
        assert_close(name, &got, &golden.f32(name), GOLDEN);
    };

    let context = network.context(positions.clone(), Some(mask), None);
    let mut x = network.vocab_embed.forward(tokens.clone());
    check("diffusion.causal.uneven.embed", x.clone());
    for (index, block) in network.blocks.iter().enumerate() {
        x = block.forward(x, &context);
        check(&format!("diffusion.causal.uneven.block{index}"), x.clone());
    }
    check(
        "diffusion.causal.uneven.logits",
        network.output_layer.forward(x, context.condition.clone()),
    );

    let t_cond = golden.f32("t_cond_sigma0");
    let condition: Vec<f32> = context
        .condition
        .unwrap()
        .narrow(0, 0, 1)
        .into_data()
        .try_to_vec()
        .unwrap();
    assert_close("t_cond_sigma0", &condition, &t_cond, 1e-5);
    let folding = Folding::new(&ckpt).unwrap();
    let folded: Vec<f32> = folding
        .condition()
        .unwrap()
        .iter()
        .map(|&c| c as f32)
        .collect();
    assert_close("t_cond_sigma0, folded", &folded, &t_cond, 1e-5);

    let sigma = golden.f32("diffusion.causal.uneven.sigma");
    let sigma = Tensor::<1>::from_floats(sigma.as_slice(), &device);
    let condition = network
        .context(positions.clone(), None, Some(sigma.clone()))
        .condition
        .unwrap();
    let condition: Vec<f32> = condition.into_data().try_to_vec().unwrap();
    assert_close(
        "t_cond_sigma",
        &condition,
        &golden.f32("t_cond_sigma"),
        1e-5,
    );
    let logits = network.forward(tokens, positions, context.mask, Some(sigma));
    check("diffusion.causal.uneven.sigma_logits", logits);
}

/// Norms and linear layers may or may not have biases, with and without adaLN: the folded form gives the same as the
/// unfolded one.
#[test]
fn biases_of_every_kind_are_folded() {
    use esolm_tests::OnDevice;
    use esolm_tests::golden::{with_biases, without_biases};
    let published: Vec<_> = ["mdlm", "ar"].map(checkpoint).into();
    for (name, published) in ["mdlm", "ar"].into_iter().zip(published) {
        let before = checks::text_logits(&published, &mut OnDevice::cpu(&published));
        for ckpt in [with_biases(name), without_biases(name)] {
            let mut unfolded = Reference::load(&ckpt, &Device::flex());
            let unfolded = checks::text_logits(&ckpt, &mut unfolded);
            let folded = checks::text_logits(&ckpt, &mut OnDevice::cpu(&ckpt));
            assert_close(name, &folded, &unfolded, GOLDEN);
            let pairs = folded.iter().zip(&before);
            let changed = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(changed > 0.1, "{name}: {changed}");
        }
    }
}

/// The folded form gives the same as the unfolded one, on the model that ships.
#[test]
fn folded_equals_unfolded() {
    use esolm::rows::{MaskMode, forward_rows};
    use esolm_tests::{OnDevice, Runner, stories};
    let ckpt = stories();
    let config = ckpt.config();
    let length = 48u32;
    let order: Vec<u32> = (0..length).map(|i| (i * 29) % length).collect();
    let tokens: Vec<u32> = (0..length)
        .map(|i| if i < 20 { 3 + 7 * i } else { config.mask_index })
        .collect();
    let (layout, tokens, step) = forward_rows(
        MaskMode::Causal,
        false,
        &[order],
        &[tokens],
        None,
        config.mask_index,
        config.vocab_size,
    )
    .unwrap();
    let mut reference = Reference::load(&ckpt, &Device::flex());
    let mut folded = OnDevice::cpu(&ckpt);
    reference.start(&layout, &tokens);
    folded.start(&layout, &tokens);
    let largest = assert_close(
        "logits",
        &folded.logits(&step),
        &reference.logits(&step),
        GOLDEN,
    );
    println!("largest difference {largest:e}");
}

/// The same modules on a GPU through wgpu; any adapter will do, a software one included.
#[test]
fn golden_forward_on_wgpu() {
    let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
    for model in ["model_a", "mdlm", "ar"] {
        let mut runner = Reference::load(&checkpoint(model), &device);
        let (cases, largest) = checks::check_forward(model, &mut runner);
        println!("{model}: {cases} cases, largest difference {largest:e}");
    }
}
