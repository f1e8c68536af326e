use std::time::Instant;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use esolm::model::Network;
use esolm::noising::*;
use esolm_train::*;

fn main() {
    let arg = |i: usize, d: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(d);
    let (hidden, blocks, heads, length, rows) = (arg(1, 256), arg(2, 6), arg(3, 8), arg(4, 128), arg(5, 32));
    let json = format!(r#"{{"model_type":"EsoLM","hidden_size":{hidden},"cond_dim":128,"n_blocks":{blocks},"n_heads":{heads},"model_length":{length},"vocab_size":2049,"mask_index":2048,"dropout":0.0}}"#);
    let config = esolm::config::ModelConfig::from_json(&json).unwrap();
    let device = Device::flex().autodiff();
    let ckpt = init::random(&config, 1).unwrap();
    let network = weights::trainable(Network::load(&ckpt, &device).unwrap());
    let n: u64 = config.parameters().iter().map(|p| p.elements()).sum();
    println!("{n} parameters");
    let mut s = esolm::rng::Stream::new(1, 1, esolm::rng::Purpose::Other(9));
    for step in 0..6 {
        let start = Instant::now();
        let mut b = BatchBuilder::new(&config, length);
        let half = rows / 2;
        let mut u = |n: usize| (0..n).map(|_| s.uniform()).collect::<Vec<f64>>();
        for i in 0..half {
            let x0: Vec<u32> = (0..length as u32).map(|p| (p * 37 + i as u32) % 2048).collect();
            let level = Level::at(0.25, time(i as f64 / half as f64));
            let m = masked(&u(length), level.alpha_t);
            let order = diffusion_order(&m, &u(length));
            b.diffusion(&Noised::gather(&x0, &m, order, 2048), level.weight, |_| true, |s| s + 1);
        }
        let d = b.scored();
        let texts: Vec<Noised> = (0..half).map(|i| {
            let x0: Vec<u32> = (0..length as u32).map(|p| (p * 37 + i as u32) % 2048).collect();
            let m = masked(&u(length), 0.25);
            let order = sequential_order(&m, Some(&u(length)));
            Noised::gather(&x0, &m, order, 2048)
        }).collect();
        b.sequential(&texts, |_, _| true);
        let batch = b.finish(d);
        let weights = Tensor::<1>::from_floats(batch.weights.as_slice(), &device);
        let built = start.elapsed();
        let loss = (scored_nll(&network, &batch) * weights).sum() / (half * length) as f64;
        let value: f32 = loss.clone().inner().into_scalar();
        let forward = start.elapsed();
        let grads = loss.backward();
        let backward = start.elapsed();
        let g = burn::optim::GradientsParams::from_grads(grads, &network);
        println!("step {step}: loss {value:.4}, {} grads, rows {}, scored {}, build {built:?} forward {forward:?} backward {backward:?}: {:.0} tokens/s", g.len(), batch.tokens.len(), batch.scored.len(), (rows * length) as f64 / backward.as_secs_f64());
    }
}
