//! Drawing tokens, and scoring given ones.

use esolm_core::sampler::Crossing;

use super::*;

/// A launch's logits `[rows, V]`.
pub(super) struct Logits {
    pub(super) vocab: usize,
    pub(super) mask: usize,
    pub(super) values: Vec<f32>,
}

impl Logits {
    /// Random ones. Nothing may depend on the mask's logit.
    pub(super) fn random(
        random: &mut Random,
        rows: usize,
        vocab: usize,
        mask: usize,
        spread: f32,
    ) -> Self {
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

    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.vocab)
    }

    /// Puts values that are not finite into every other row, at varying positions.
    pub(super) fn damage(&mut self, random: &mut Random) {
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        for (value, row) in
            (strange.iter().cycle()).zip(self.values.chunks_mut(self.vocab).step_by(2))
        {
            let token = (self.mask + 1 + random.below(self.vocab - 1)) % self.vocab;
            row[token] = *value;
        }
    }

    pub(super) fn stride(&self) -> usize {
        self.vocab.next_multiple_of(4)
    }

    /// Rows padded to four columns, with this many others before them and one after.
    fn upload_after(&self, others: usize) -> Buffer {
        let stride = self.stride();
        let count = self.values.len() / self.vocab;
        let mut padded = vec![f32::NAN; (others + count + 1) * stride];
        let own = padded.chunks_mut(stride).skip(others);
        for (row, out) in self.rows().zip(own) {
            out[..self.vocab].copy_from_slice(row);
        }
        floats(&padded)
    }

    pub(super) fn upload(&self) -> Buffer {
        self.upload_after(0)
    }
}

/// A draw from `logits`, which are those of the rows from `first` on; `draws` and `noise` are for all rows of the pass.
struct Drawing<'a> {
    logits: &'a Logits,
    first: usize,
    sampler: Sampler,
    seed: u64,
    draws: &'a [[u32; 2]],
    noise: &'a [f32],
}

impl Drawing<'_> {
    /// The tokens that the shaders draw, with seeded or given noise, and one workgroup per row or several.
    fn run(&self, is_given: bool, is_shared: bool) -> Vec<u32> {
        const OLD: u32 = 7777;
        let (logits, first) = (self.logits, self.first);
        let all = self.draws.len();
        // Row i of the pass writes token all - 1 - i. The row after the sampled ones would overwrite the first one.
        let rows: Vec<Row> = (0..all as u32 + 3)
            .map(|r| Row {
                sequence: 0,
                slot: r,
                position: r,
                prefix: 0,
                own: own_slot(r, 0),
                source: MASKED,
                target: (all as u32 - 1).saturating_sub(r),
            })
            .collect();
        let tokens = gpu().words(vec![OLD; all.max(4)]).unwrap();
        let noise = is_given.then(|| floats(self.noise));
        let count = logits.values.len() / logits.vocab;
        let shared = is_shared.then(|| {
            let [state, bests] = Shared::words(logits.vocab, count).expect("a large vocabulary");
            Shared {
                state: blank(state),
                bests: blank(bests),
            }
        });
        // There may also be logits of rows before the first.
        let held = if is_given { first } else { 0 };
        let io = Sample {
            logits: &logits.upload_after(first - held),
            held,
            stride: logits.stride(),
            rows: &table(&rows),
            draws: &gpu().upload(bytemuck::cast_slice(self.draws)),
            tokens: &tokens,
            noise: noise.as_ref(),
            shared: shared.as_ref(),
            first,
            count,
            vocab: logits.vocab,
            mask_index: logits.mask as u32,
            seed: self.seed,
        };
        sample(gpu(), &self.sampler, &io);
        if let Some(Shared { state, bests }) = &shared {
            let [states, parts] = Shared::words(logits.vocab, count).unwrap();
            written(state, states);
            written(bests, parts);
        }
        let bytes = pollster::block_on(gpu().read(&tokens)).expect("the kernel ran");
        let mut tokens: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        tokens.truncate(all);
        tokens.reverse();
        assert_eq!(tokens[..first], vec![OLD; first]);
        tokens.split_off(first)
    }

    /// The tokens that the twin draws.
    fn twin(&self, is_given: bool) -> Vec<u32> {
        let vocab = self.logits.vocab;
        (self.logits.rows().zip(self.first..))
            .map(|(row, index)| {
                let [sequence, position] = self.draws[index];
                let noise = match is_given {
                    true => NoiseSource::Given(&self.noise[index * vocab..][..vocab]),
                    false => NoiseSource::Seeded {
                        seed: self.seed,
                        sequence,
                        position,
                    },
                };
                sample_row(row, self.logits.mask as u32, &self.sampler, noise)
            })
            .collect()
    }
}

/// Compares the shaders with their twin, both for finite logits and for some that are not.
fn check_draws(random: &mut Random, mut logits: Logits, sampler: Sampler, is_shared: &[bool]) {
    let (vocab, count) = (logits.vocab, logits.values.len() / logits.vocab);
    let first = random.below(3);
    let draws: Vec<[u32; 2]> = (0..(first + count) as u32)
        .map(|i| [i % 3, 5 * i])
        .collect();
    let mut noise = random.values((first + count) * vocab);
    noise[..first * vocab].fill(f32::NAN);
    let seed = random.next();
    for is_damaged in [false, true] {
        if is_damaged {
            logits.damage(random);
        }
        let drawing = Drawing {
            logits: &logits,
            first,
            sampler,
            seed,
            draws: &draws,
            noise: &noise,
        };
        for is_given in [false, true] {
            let tokens = drawing.twin(is_given);
            for &is_shared in is_shared {
                assert_eq!(
                    drawing.run(is_given, is_shared),
                    tokens,
                    "{vocab} {sampler:?} given {is_given} shared {is_shared}"
                );
            }
            for (row, token) in tokens.into_iter().enumerate() {
                let is_broken = is_damaged && row % 2 == 0;
                assert_eq!(token == NO_TOKEN, is_broken, "{vocab} {sampler:?} {row}");
                assert!(is_broken || (token as usize) < vocab && token as usize != logits.mask);
            }
        }
    }
}

/// A case with the token kept at which the sum crosses top-p, and one with it dropped.
fn both_crossings<T: Copy>(case: T) -> [(T, Crossing); 2] {
    [Crossing::Keep, Crossing::Drop].map(|crossing| (case, crossing))
}

#[test]
fn samples() {
    let mut random = Random(8);
    for vocab in [3, 5, 97, 1030, 2049] {
        for ((temperature, top_k, top_p, min_p), top_p_crossing) in [
            (1.0, None, None, None),
            (0.7, None, Some(0.9), None),
            (1.3, None, Some(0.3), None),
            (0.0, Some(2), Some(0.5), Some(0.5)),
            (0.8, Some(3), None, None),
            (1.0, None, None, Some(0.2)),
            (1.6, Some(40), Some(0.95), Some(0.01)),
        ]
        .into_iter()
        .flat_map(both_crossings)
        {
            let sampler = Sampler {
                temperature,
                top_k,
                top_p,
                min_p,
                top_p_crossing,
            };
            let mask = random.below(vocab);
            let logits = Logits::random(&mut random, 40, vocab, mask, 3.0);
            check_draws(&mut random, logits, sampler, &[false]);
        }
    }
}

#[test]
fn samples_of_large_vocabularies() {
    let mut random = Random(18);
    for vocab in [32_003, 50_258, 131_072] {
        for ((temperature, top_k, top_p, min_p), top_p_crossing) in [
            (1.0, None, None, None),
            (0.0, None, None, None),
            (1.0, None, Some(0.9), None),
            (0.8, Some(50), None, None),
            (1.0, None, None, Some(0.05)),
            (1.3, Some(5000), Some(0.7), Some(0.02)),
        ]
        .into_iter()
        .flat_map(both_crossings)
        {
            let sampler = Sampler {
                temperature,
                top_k,
                top_p,
                min_p,
                top_p_crossing,
            };
            let mask = random.below(vocab);
            let logits = Logits::random(&mut random, 3, vocab, mask, 4.0);
            check_draws(&mut random, logits, sampler, &[false, true]);
        }
    }
}

/// Rows of equal values, with a peak, and with most logits at the minimum.
#[test]
fn samples_of_odd_rows() {
    let mut random = Random(28);
    for vocab in [5, 2049, 32_003] {
        let mask = random.below(vocab);
        let mut logits = Logits::random(&mut random, 6, vocab, mask, 3.0);
        for (row, values) in logits.values.chunks_mut(vocab).enumerate() {
            for (v, value) in values.iter_mut().enumerate().filter(|(v, _)| *v != mask) {
                match row / 2 {
                    0 => *value = -7.25,
                    1 => *value *= if v == (mask + 1) % vocab { 30.0 } else { 1.0 },
                    _ if v % 3 != mask % 3 || v == (mask + 3) % vocab => {}
                    _ => *value = -3.0e38,
                }
            }
        }
        for ((top_k, top_p, min_p), top_p_crossing) in [
            (Some(1), None, None),
            (Some(u32::MAX), Some(0.5), None),
            (None, Some(0.999), None),
            (None, Some(1e-9), None),
            (None, None, Some(1.0)),
            (Some(20), Some(0.6), Some(1e-5)),
        ]
        .into_iter()
        .flat_map(both_crossings)
        {
            let sampler = Sampler {
                temperature: 0.9,
                top_k,
                top_p,
                min_p,
                top_p_crossing,
            };
            let logits = Logits {
                values: logits.values.clone(),
                ..logits
            };
            let is_shared = if vocab > 32_000 {
                &[false, true][..]
            } else {
                &[false]
            };
            check_draws(&mut random, logits, sampler, is_shared);
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
            // A shift costs no precision.
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

#[test]
fn suppressed_tokens() {
    let mut random = Random(71);
    for (vocab, rows) in [(5usize, 3), (97, 7), (1001, 30)] {
        for count in [1, 4, vocab / 2, vocab - 1] {
            let stride = vocab.next_multiple_of(4);
            let before = random.values((rows + 4) * stride);
            let mut tokens: Vec<u32> = (0..vocab as u32).collect();
            for i in 0..count {
                tokens.swap(i, random.between(i, vocab - 1));
            }
            tokens.truncate(count);
            let mut list = tokens.clone();
            // What follows them is not read.
            list.resize(count.next_multiple_of(4) + 4, u32::MAX);
            let first = random.below(4);
            let logits = floats(&before);
            let list = gpu().words(list).expect("memory suffices");
            suppress_on(gpu(), &logits, stride, [first, rows], &list, count);
            let mut twin = before;
            for row in twin.chunks_mut(stride).skip(first).take(rows) {
                suppress(row, &tokens);
            }
            assert_eq!(
                read(&logits),
                twin,
                "{count} of {vocab} from row {first} on"
            );
        }
    }
}
