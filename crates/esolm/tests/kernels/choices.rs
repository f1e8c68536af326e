//! Which drawn tokens become known. All of it is integer arithmetic, so shaders and twins agree to the bit.

use super::draws::Logits;
use super::*;
use esolm::sampler::Crossing;

/// Marks what must not be read, or has not been written.
const OLD: u32 = 7_777_777;

fn words(values: &[u32]) -> Buffer {
    // No buffer is smaller than four words.
    let mut values = values.to_vec();
    values.resize(values.len().max(4), OLD);
    gpu().words(values).expect("memory suffices")
}

fn read_words(buffer: &Buffer, len: usize) -> Vec<u32> {
    let bytes = pollster::block_on(gpu().read(buffer)).expect("the kernel ran");
    let mut words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    assert!(words.split_off(len).iter().all(|&word| word == OLD));
    words
}

/// Row i of a pass of `all` sampled rows has the position all - 1 - i; a further row that is not sampled has none.
fn rows(all: usize) -> Buffer {
    let row = |r: u32, target: u32| Row {
        sequence: 0,
        slot: r,
        position: r,
        prefix: 0,
        own: own_slot(r, 0),
        source: MASKED,
        target,
    };
    let rows = (0..all as u32).map(|r| row(r, all as u32 - 1 - r));
    let rows: Vec<Row> = rows.chain([row(all as u32, NO_TARGET)]).collect();
    table(&rows)
}

/// The input for each row, in the order of positions.
fn by_place(of_rows: &[u32]) -> Buffer {
    let places: Vec<u32> = of_rows.iter().rev().copied().collect();
    words(&places)
}

fn check_confidences(random: &mut Random, mut logits: Logits, sampler: &Sampler) {
    let (vocab, mask) = (logits.vocab, logits.mask as u32);
    let count = logits.values.len() / vocab;
    let first = random.below(3);
    let mut known: Vec<bool> = (0..first + count).map(|_| random.below(4) == 0).collect();
    for is_damaged in [false, true] {
        if is_damaged {
            logits.damage(random);
            // So that none of them is known.
            known.fill(false);
        }
        let drawn: Vec<u32> = (logits.rows().enumerate())
            .map(|(row, logits)| {
                let noise = NoiseSource::Seeded {
                    seed: 5,
                    sequence: 0,
                    position: row as u32,
                };
                sample_row(logits, mask, sampler, noise)
            })
            .collect();
        let stride = logits.stride();
        let mut uploaded = read(&logits.upload());
        let mut tokens = vec![OLD; first];
        let mut all_drawn = vec![OLD; first];
        for (row, &token) in drawn.iter().enumerate() {
            let is_known = known[first + row];
            tokens.push(if is_known { 1 + mask } else { mask });
            all_drawn.push(token);
            if is_known {
                // None of it is read.
                uploaded[row * stride..][..vocab].fill(f32::NAN);
            }
        }
        for by in [Confidence::Model, Confidence::Tempered, Confidence::Drawn] {
            let confidences = words(&vec![OLD; first + count + 4]);
            let io = Confidences {
                logits: &floats(&uploaded),
                stride,
                rows: &rows(first + count),
                tokens: &by_place(&tokens),
                drawn: &by_place(&all_drawn),
                confidences: &confidences,
                first,
                count,
                vocab,
                mask_index: mask,
            };
            let filter = by.filter(sampler).expect("of the logits");
            confidence_of(gpu(), &filter, &io);
            let found = read_words(&confidences, first + count);
            assert_eq!(found[..first], vec![OLD; first]);
            for (row, logits) in logits.rows().enumerate() {
                let twin = match known[first + row] {
                    true => 0,
                    false => confidence(by, sampler, logits, mask, drawn[row]).unwrap(),
                };
                let name = format!("{vocab} {sampler:?} {by:?} row {row}");
                assert_eq!(found[first + row], twin, "{name}");
                let is_broken = is_damaged && row % 2 == 0;
                assert_eq!(twin == BROKEN, is_broken, "{name}");
                assert!(is_broken || twin <= CERTAIN, "{name}");
            }
        }
    }
}

#[test]
fn confidences() {
    let mut random = Random(38);
    for (vocab, count) in [(2, 9), (5, 30), (97, 30), (2049, 12), (50_258, 3)] {
        for (temperature, top_k, top_p, min_p) in [
            (1.0, None, None, None),
            (0.0, Some(2), Some(0.5), None),
            (0.6, Some(3), None, None),
            (1.3, None, Some(0.7), None),
            (1.6, Some(40), Some(0.95), Some(0.01)),
        ] {
            let sampler = Sampler {
                temperature,
                top_k,
                top_p,
                min_p,
                top_p_crossing: Crossing::Keep,
            };
            let mask = random.below(vocab);
            // Occasionally, the network is almost certain.
            let spread = [3.0, 0.01, 60.0][random.below(3)];
            let logits = Logits::random(&mut random, count, vocab, mask, spread);
            check_confidences(&mut random, logits, &sampler);
        }
    }
}

#[test]
fn choices() {
    const MASK: u32 = 96;
    let mut random = Random(48);
    for round in 0..60 {
        // Groups without rows, of a few, and of more rows than a workgroup has lanes.
        let count = random.between(1, 6);
        let mut groups: Vec<Group> = Vec::new();
        let mut all = 0;
        for _ in 0..count {
            let most = [0, 1, 7, 40, 300, 5000][random.below(6)];
            let rows = random.between(most.min(1), most) as u32;
            let least = match random.below(4) {
                0 => random.between(1, 3) as u32,
                1 => u32::MAX,
                _ => random.between(1, most + 1) as u32,
            };
            groups.push(Group {
                first: all,
                rows,
                least,
            });
            all += rows;
        }
        let all = all as usize;
        // Few distinct values, so that many are equal; or neighbours in every digit; or any.
        let kind = random.below(3);
        let mut value = || match kind {
            0 => random.below(3) as u32 * (CERTAIN / 2),
            1 => CERTAIN / 2 + random.below(600) as u32 - 300,
            _ => random.next() as u32 % (CERTAIN + 1),
        };
        let confidences: Vec<u32> = (0..all).map(|_| value()).collect();
        let mut drawn: Vec<u32> = (0..all).map(|_| random.below(90) as u32).collect();
        if round % 5 == 0 && all > 0 {
            drawn[random.below(all)] = NO_TOKEN;
        }
        let share = random.below(4);
        let before: Vec<u32> = (0..all)
            .map(|_| if random.below(4) < share { 95 } else { MASK })
            .collect();
        let threshold = [
            None,
            Some(0.5),
            Some(0.5f32.next_up()),
            Some(1.0),
            Some(0.9),
        ];
        let rule = Rule {
            by: Confidence::Model,
            threshold: threshold[random.below(5)],
        };
        let choice = Choice { rule, groups };
        assert!(choice.holds(all));

        let targets: Vec<u32> = (0..all as u32).collect();
        let mut tokens = before.clone();
        let twin = choose(&choice, MASK, &drawn, &confidences, &targets, &mut tokens);

        let table: Vec<u32> = (choice.groups.iter())
            .flat_map(|group| [group.first, group.rows, group.least, OLD])
            .collect();
        let places = by_place(&before);
        let outcome = words(&vec![OLD; count + all + 4]);
        let io = Reveal {
            rows: &rows(all),
            drawn: &by_place(&drawn),
            confidences: &words(&confidences),
            groups: &words(&table),
            tokens: &places,
            outcome: &outcome,
            count,
            longest: 5000,
            mask_index: MASK,
            bound: rule.bound(),
        };
        reveal(gpu(), &io);
        let mut found = read_words(&places, all);
        found.reverse();
        assert_eq!(found, tokens, "round {round}");
        let found = read_words(&outcome, count + all);
        assert_eq!(found[..count], twin.left, "round {round}");
        assert_eq!(found[count..], twin.tokens, "round {round}");
    }
}
