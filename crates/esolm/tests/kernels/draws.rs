//! Drawing tokens, and scoring given ones.

use super::*;

/// A launch's logits `[rows, V]`.
struct Logits {
    vocab: usize,
    mask: usize,
    values: Vec<f32>,
}

impl Logits {
    /// Random ones. Nothing may depend on the logit of the mask.
    fn random(random: &mut Random, rows: usize, vocab: usize, mask: usize, spread: f32) -> Self {
        let mut values = random.values(rows * vocab);
        values.iter_mut().for_each(|value| *value *= spread);
        for row in values.chunks_mut(vocab) {
            row[mask] = f32::NAN;
        }
        Self {
            vocab,
            mask,
            values,
        }
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.vocab)
    }

    /// Puts values that are not finite into every other row, at places of their own.
    fn damage(&mut self, random: &mut Random) {
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        for (value, row) in
            (strange.iter().cycle()).zip(self.values.chunks_mut(self.vocab).step_by(2))
        {
            let token = (self.mask + 1 + random.below(self.vocab - 1)) % self.vocab;
            row[token] = *value;
        }
    }

    fn stride(&self) -> usize {
        self.vocab.next_multiple_of(4)
    }

    /// Rows padded to four columns, and a further row.
    fn upload(&self) -> Buffer {
        let stride = self.stride();
        let count = self.values.len() / self.vocab;
        let mut padded = vec![f32::NAN; (count + 1) * stride];
        for (row, out) in self.rows().zip(padded.chunks_mut(stride)) {
            out[..self.vocab].copy_from_slice(row);
        }
        floats(&padded)
    }
}

/// What is drawn from `logits` in the launch of the rows from `first` on. `draws` and `noise` are of all rows of the pass.
fn drawn(
    logits: &Logits,
    first: usize,
    sampler: Sampler,
    seed: u64,
    draws: &[[u32; 2]],
    noise: Option<&[f32]>,
) -> Vec<u32> {
    const OLD: u32 = 7777;
    let all = draws.len();
    // Sampled row i is row 2 i of the pass and writes token all - 1 - i.
    let rows: Vec<Row> = (0..2 * all as u32)
        .map(|r| Row {
            sequence: 0,
            slot: r,
            position: r,
            prefix: 0,
            source: MASKED,
            target: (all as u32).wrapping_sub(1 + r / 2),
        })
        .collect();
    let sampled: Vec<u32> = (0..all as u32).map(|i| 2 * i).collect();
    let tokens = gpu().words(vec![OLD; all]).unwrap();
    let noise = noise.map(floats);
    let io = Sample {
        logits: &logits.upload(),
        stride: logits.stride(),
        sampled: &gpu().words(sampled).unwrap(),
        rows: &table(&rows),
        draws: &gpu().upload(bytemuck::cast_slice(draws)),
        tokens: &tokens,
        noise: noise.as_ref(),
        first,
        count: logits.values.len() / logits.vocab,
        vocab: logits.vocab,
        mask_index: logits.mask as u32,
        seed,
    };
    sample(gpu(), &sampler, &io);
    let bytes = pollster::block_on(gpu().read(&tokens)).expect("the kernel ran");
    let mut tokens: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    tokens.truncate(all);
    tokens.reverse();
    assert_eq!(tokens[..first], vec![OLD; first]);
    tokens.split_off(first)
}

#[test]
fn samples() {
    let mut random = Random(8);
    for vocab in [3, 97, 1030] {
        for (temperature, top_p) in [
            (1.0, None),
            (0.7, Some(0.9)),
            (1.3, Some(0.3)),
            (0.0, Some(0.5)),
        ] {
            let sampler = Sampler { temperature, top_p };
            let (first, count) = (random.below(3), 40);
            let mask = random.below(vocab);
            let mut logits = Logits::random(&mut random, count, vocab, mask, 3.0);
            let draws: Vec<[u32; 2]> = (0..(first + count) as u32)
                .map(|i| [i % 3, 5 * i])
                .collect();
            let seed = random.next();
            let mut noise = random.values((first + count) * vocab);
            noise[..first * vocab].fill(f32::NAN);
            for is_damaged in [false, true] {
                if is_damaged {
                    logits.damage(&mut random);
                }
                let seeded: Vec<u32> = (logits.rows())
                    .zip(&draws[first..])
                    .map(|(row, &[sequence, position])| {
                        let noise = NoiseSource::Seeded {
                            seed,
                            sequence,
                            position,
                        };
                        sample_row(row, mask as u32, &sampler, noise)
                    })
                    .collect();
                assert_eq!(
                    drawn(&logits, first, sampler, seed, &draws, None),
                    seeded,
                    "seeded, {vocab} {sampler:?}"
                );
                let given: Vec<u32> = (logits.rows())
                    .zip(noise[first * vocab..].chunks(vocab))
                    .map(|(row, noise)| {
                        sample_row(row, mask as u32, &sampler, NoiseSource::Given(noise))
                    })
                    .collect();
                assert_eq!(
                    drawn(&logits, first, sampler, seed, &draws, Some(&noise)),
                    given,
                    "given, {vocab} {sampler:?}"
                );
                for tokens in [seeded, given] {
                    for (row, token) in tokens.into_iter().enumerate() {
                        let is_broken = is_damaged && row % 2 == 0;
                        assert_eq!(token == NO_TOKEN, is_broken, "{vocab} {sampler:?} {row}");
                        assert!(is_broken || (token as usize) < vocab && token as usize != mask);
                    }
                }
            }
        }
    }
}

#[test]
fn scores() {
    let mut random = Random(9);
    for vocab in [2usize, 5, 97, 1031, 2049] {
        for first in [0, 3] {
            let count = random.between(1, 70);
            let mask = random.below(vocab);
            let mut logits = Logits::random(&mut random, count, vocab, mask, 6.0);
            // A shift costs no digits.
            logits.values.iter_mut().for_each(|value| *value += 20.0);
            let wanted: Vec<u32> = (0..first + count)
                .map(|_| match random.below(vocab) {
                    token if token == mask => ((mask + 1) % vocab) as u32,
                    token => token as u32,
                })
                .collect();
            for is_damaged in [false, true] {
                if is_damaged {
                    logits.damage(&mut random);
                }
                let want: Vec<f32> = (logits.rows().zip(&wanted[first..]))
                    .map(|(row, &token)| log_probability(row, mask as u32, token) as f32)
                    .collect();
                for (row, want) in want.iter().enumerate() {
                    assert_eq!(want.is_nan(), is_damaged && row % 2 == 0);
                }
                let scores = blank(first + count);
                let io = Score {
                    logits: &logits.upload(),
                    stride: logits.stride(),
                    wanted: &gpu().words(wanted.clone()).unwrap(),
                    scores: &scores,
                    first,
                    count,
                    vocab,
                    mask_index: mask as u32,
                };
                score(gpu(), &io);
                let got = written(&scores, first + count);
                assert!(got[..first].iter().all(|score| score.is_nan()));
                let name = format!("score {vocab} {count} {first}");
                close(&name, &got[first..], &want, 2e-6);
            }
        }
    }
}
