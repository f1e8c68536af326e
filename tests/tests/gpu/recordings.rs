//! Passes that are filled up, recorded and replayed.

use super::*;

/// A pass of few rows takes five launches per block, one to embed and one to normalise the sampled rows; without
/// sampled rows, the last block only writes keys and values. When a pass occurs again it is recorded, and then
/// replayed: with the same numbers, for any tokens.
#[test]
fn passes_of_few_rows_are_recorded() {
    let checkpoint = checkpoint("model_a");
    let gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
    let options = LoadOptions::default();
    let loaded = GpuExecutor::load(gpu, &checkpoint, &options);
    let mut executor = block_on(loaded).unwrap();
    let blocks = checkpoint.config().n_blocks as u64;
    let layout = Layout {
        sequences: 2,
        slots: 6,
        tokens: 12,
    };
    // The sampled rows are neither the first ones nor neighbours.
    let rows: Vec<Row> = [(0, 3, 2), (0, 1, 2), (0, 0, 1), (1, 0, 1), (1, 2, 1)]
        .map(|(sequence, slot, prefix)| Row {
            sequence,
            slot,
            position: slot,
            prefix,
            own: own_slot(slot, prefix),
            source: 6 * sequence + slot,
            target: NO_TARGET,
        })
        .into();
    let mut run = |tokens: &[u32], sampled: &[u32]| {
        executor.start(&layout, tokens).unwrap();
        let step = StepRows {
            rows: rows.clone(),
            sampled: sampled.to_vec(),
        };
        let keys = vec![[0; 2]; sampled.len()];
        let before = executor.counters();
        executor.pass(&step, &keys).unwrap();
        let launches = executor.counters().since(&before).dispatches;
        (launches, block_on(executor.logits()).unwrap())
    };
    let [some, others]: [Vec<u32>; 2] = [3, 7].map(|n| (0..12).map(|i| (n * i) % 11).collect());
    let vocab = checkpoint.config().vocab_size;
    let (_, all) = run(&some, &[0, 1, 2, 3, 4]);
    let (launches, first) = run(&some, &[0, 2, 4]);
    assert_eq!(launches, 5 * blocks + 2);
    for (row, logits) in [0, 2, 4].into_iter().zip(first.chunks(vocab)) {
        for (a, b) in logits.iter().zip(&all[row * vocab..]) {
            assert!((a - b).abs() < 1e-4, "row {row}: {a} is not {b}");
        }
    }
    let (_, of_others) = run(&others, &[0, 2, 4]);
    assert_ne!(first, of_others);
    for _ in 0..3 {
        assert_eq!(run(&some, &[0, 2, 4]), (launches, first.clone()));
        assert_eq!(run(&others, &[0, 2, 4]), (launches, of_others.clone()));
        let (launches, none) = run(&some, &[]);
        assert_eq!((launches, none.len()), (5 * (blocks - 1) + 2, 0));
    }
}

/// A pass is filled up with rows that change nothing: neither the logits of others nor what the cache holds. As many are then launched alike,
/// and give the same numbers whether they are launched, recorded or replayed.
#[test]
fn passes_that_are_filled_up_are_those_of_their_rows() {
    let checkpoint = checkpoint("model_a");
    let vocab = checkpoint.config().vocab_size;
    let layout = Layout {
        sequences: 3,
        slots: 20,
        tokens: 60,
    };
    let tokens: Vec<u32> = (0..60).map(|i| (3 * i) % 11).collect();
    let row = |sequence, slot| Row {
        sequence,
        slot,
        position: slot,
        prefix: slot + 1,
        own: own_slot(slot, slot + 1),
        source: 20 * sequence + slot,
        target: NO_TARGET,
    };
    let open_as = |kind| {
        let mut gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
        gpu.info.kind = kind;
        let options = LoadOptions::default();
        block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap()
    };
    let run = |executor: &mut GpuExecutor, rows: Vec<Row>, sampled: &[u32]| {
        let step = StepRows {
            rows,
            sampled: sampled.to_vec(),
        };
        let before = executor.counters();
        executor.pass(&step, &vec![[0; 2]; sampled.len()]).unwrap();
        let launches = executor.counters().since(&before).dispatches;
        (launches, block_on(executor.logits()).unwrap())
    };
    // Every row sees those before it in its sequence, so its logits do not depend on how many come after it.
    let first = |count: u32| (0..count).map(|r| row(r / 20, r % 20)).collect::<Vec<_>>();
    let mut executor = open_as(AdapterKind::Software);
    executor.start(&layout, &tokens).unwrap();
    let every: Vec<u32> = (0..60).collect();
    let (_, reference) = run(&mut executor, first(60), &every);
    let close = |name: &str, got: &[f32], sampled: &[u32]| {
        assert_eq!(got.len(), sampled.len() * vocab, "{name}");
        for (&row, got) in sampled.iter().zip(got.chunks(vocab)) {
            let want = &reference[row as usize * vocab..][..vocab];
            for (a, b) in got.iter().zip(want) {
                assert!((a - b).abs() < 1e-4, "{name}, row {row}: {a} is not {b}");
            }
        }
    };
    for kind in [AdapterKind::Software, AdapterKind::Discrete] {
        let mut executor = open_as(kind);
        executor.start(&layout, &tokens).unwrap();
        let mut seen = HashMap::new();
        for round in 0..4 {
            for count in [37, 40, 33, 60, 11, 5] {
                let few = [0, 2, 3, count - 1];
                let many: Vec<u32> = (0..count).filter(|r| r % 3 != 1).collect();
                for sampled in [&few[..], &many] {
                    let name = format!("{kind:?}, {count} rows, {}, round {round}", sampled.len());
                    let ran = run(&mut executor, first(count), sampled);
                    close(&name, &ran.1, sampled);
                    let key = (count, sampled.len());
                    assert_eq!(seen.entry(key).or_insert(ran.clone()), &ran, "{name}");
                    // What the cache holds of the first slots.
                    let last = count.min(20) - 1;
                    let (_, alone) = run(&mut executor, vec![row(0, last)], &[0]);
                    close(&format!("{name}, alone"), &alone, &[last]);
                }
            }
        }
        // Of these 15 passes those that are filled up alike are recorded once.
        let expected = match kind {
            AdapterKind::Software => 14,
            _ => 12,
        };
        assert_eq!(executor.recorded(), expected, "{kind:?}");
    }
}

/// Recordings are bounded in number, those that are of use stay, and a pass too long for one submission is recorded too.
#[test]
fn recordings_are_few() {
    let checkpoint = checkpoint("model_a");
    let tokens: Vec<u32> = (0..20).map(|i| (3 * i) % 11).collect();
    let layout = Layout {
        sequences: 1,
        slots: 20,
        tokens: 20,
    };
    for (submit, most_rows, most) in [(None, 8, 32), (Some(1), 1, 1)] {
        let mut gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
        gpu.limits.submit = submit.unwrap_or(gpu.limits.submit);
        let options = LoadOptions::default();
        let mut executor = block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap();
        executor.start(&layout, &tokens).unwrap();
        let chosen = *executor.chosen();
        let mut run = |count: u32, sampled: u32| {
            let rows = (0..count).map(|slot| Row {
                sequence: 0,
                slot,
                position: slot,
                prefix: slot + 1,
                own: own_slot(slot, slot + 1),
                source: slot,
                target: NO_TARGET,
            });
            let step = StepRows {
                rows: rows.collect(),
                sampled: (0..sampled).collect(),
            };
            executor
                .pass(&step, &vec![[0; 2]; sampled as usize])
                .unwrap();
            (executor.recorded(), block_on(executor.logits()).unwrap())
        };
        let shapes = (1..=most_rows).flat_map(|rows| (1..=rows).map(move |wanted| (rows, wanted)));
        // Shapes that are filled up alike share a recording, in which hardware fills up more of them than software.
        let (mut filled, mut held) = (HashSet::new(), 0);
        for (at, (rows, wanted)) in shapes.enumerate() {
            filled.insert([rows, wanted].map(|count| chosen.filled(count as usize)));
            let (_, launched) = run(rows, wanted);
            for _ in 0..2 {
                let (recorded, logits) = run(rows, wanted);
                let expected = most.min(filled.len())..=most.min(at + 1);
                assert!(
                    expected.contains(&recorded),
                    "{rows} rows, {wanted} wanted: {recorded}"
                );
                assert_eq!(logits, launched, "{rows} rows, {wanted} wanted");
                held = recorded;
            }
        }
        // After many passes of one shape those of others make room.
        let (_, launched) = run(most_rows, most_rows);
        for _ in 0..128 {
            assert_eq!(run(1, 1).0, held);
        }
        for _ in 0..3 {
            assert_eq!(run(most_rows, most_rows), (held, launched.clone()));
        }
    }
}

/// What the recordings of a batch hold is free again when the next one of another shape starts.
#[test]
fn recordings_of_old_batches_leave_nothing() {
    let checkpoint = checkpoint("model_a");
    let gpu = block_on(open(DeviceChoice::Gpu(None))).unwrap().unwrap();
    let options = LoadOptions::default();
    let mut executor = block_on(GpuExecutor::load(gpu, &checkpoint, &options)).unwrap();
    let mut held = vec![];
    for batch in 0..30 {
        let sequences = 2 + batch % 2;
        let layout = Layout {
            sequences,
            slots: 20,
            tokens: 20 * sequences,
        };
        executor.start(&layout, &vec![1; layout.tokens]).unwrap();
        for wanted in [40, 32, 20, 40, 32, 20, 40, 32, 20, 40, 32, 20] {
            let rows = (0..40).map(|r| Row {
                sequence: r / 20,
                slot: r % 20,
                position: r % 20,
                prefix: r % 20 + 1,
                own: own_slot(r % 20, r % 20 + 1),
                source: r,
                target: NO_TARGET,
            });
            let step = StepRows {
                rows: rows.collect(),
                sampled: (0..wanted).collect(),
            };
            let keys = vec![[0; 2]; wanted as usize];
            executor.pass(&step, &keys).unwrap();
        }
        block_on(executor.logits()).unwrap();
        assert_eq!(executor.recorded(), 3);
        held.push(executor.counters().peak_bytes);
    }
    assert!(held[5..].iter().all(|&bytes| bytes == held[5]), "{held:?}");
}
