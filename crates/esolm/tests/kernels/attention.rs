//! Attention over the cache.

use esolm::kernels::attention::{AttentionVariant, WIDE_BELOW};

use super::*;

#[test]
fn attends() {
    let mut random = Random(7);
    // The column groups of a head are not always a power of two.
    for (cache, kind, shapes) in [
        (
            Precision::F32,
            AdapterKind::Software,
            &[
                (2, 2, 8, 5),
                (1, 1, 64, 290),
                (2, 2, 128, 33),
                (6, 6, 32, 300),
                (4, 4, 16, 1),
                (4, 2, 32, 50),
                (14, 2, 64, 33),
                (2, 1, 128, 70),
            ][..],
        ),
        (
            Precision::F32,
            AdapterKind::Discrete,
            &[
                (3, 3, 12, 40),
                (1, 1, 64, 130),
                (2, 2, 128, 33),
                (6, 6, 32, 300),
                (2, 2, 100, 77),
                (4, 2, 32, 130),
                (9, 3, 64, 40),
                (8, 2, 128, 33),
                (5, 1, 12, 77),
            ],
        ),
        (
            Precision::F16,
            AdapterKind::Software,
            &[
                (3, 3, 12, 40),
                (1, 1, 64, 130),
                (2, 2, 100, 140),
                (9, 3, 64, 70),
            ],
        ),
        (
            Precision::F16,
            AdapterKind::Discrete,
            &[
                (2, 2, 8, 5),
                (2, 2, 128, 70),
                (4, 4, 16, 1),
                (4, 2, 128, 70),
                (7, 1, 64, 33),
            ],
        ),
    ] {
        for &(heads, kv_heads, head_dim, slots) in shapes {
            let sequences = random.between(1, 3);
            let geometry = Geometry {
                heads,
                kv_heads,
                head_dim,
                slots,
                cache,
                kind,
            };
            let mut rows = random_rows(&mut random, sequences, slots, 80);
            // Written slots end somewhere: in the last sequence at its end, in the others anywhere.
            for sequence in 0..sequences {
                let end = match sequence + 1 == sequences {
                    true => slots,
                    false => random.between(0, slots),
                };
                for row in rows.iter_mut().filter(|r| r.sequence == sequence as u32) {
                    row.prefix = row.prefix.min(end as u32);
                    row.own = own_range(&mut random, row, slots);
                }
            }
            // A row that sees only itself, and one that sees everything.
            rows[0].prefix = 0;
            rows[0].own = own_slot(rows[0].slot, 0);
            if let Some(last) = rows.last_mut() {
                last.prefix = slots as u32;
                last.own = [slots as u32; 2];
            }
            let q = random.values(rows.len() * geometry.width());
            let size = sequences * slots * geometry.kv_width();
            let (mut k, mut v) = (
                cached(&random.values(size), cache),
                cached(&random.values(size), cache),
            );
            // Slots that no row may read hold values that an earlier batch may have left there.
            for (at, (k, v)) in (k.chunks_mut(geometry.kv_width()))
                .zip(v.chunks_mut(geometry.kv_width()))
                .enumerate()
            {
                let (sequence, slot) = ((at / slots) as u32, (at % slots) as u32);
                let is_read = |row: &Row| row.sees(slot);
                let mut own = rows.iter().filter(|row| row.sequence == sequence);
                if !own.any(is_read) {
                    k.fill(f32::NAN);
                    v.fill(f32::NAN);
                }
            }
            let (k_buffer, v_buffer) = (cache_of(&k, cache), cache_of(&v, cache));
            let (q_buffer, rows_buffer) = (padded(&q, geometry.width()), table(&rows));
            let spans: Vec<[u32; 2]> = (0..sequences as u32)
                .map(|s| {
                    [
                        rows.iter().position(|r| r.sequence == s).unwrap_or(0) as u32,
                        rows.iter().filter(|r| r.sequence == s).count() as u32,
                    ]
                })
                .collect();
            let longest = spans.iter().map(|s| s[1] as usize).max().unwrap();
            let seen = rows.iter().map(Row::seen).max().unwrap();
            let want = attention_twin(&geometry, &q, &k, &v, &rows);
            let out = blank(q.len());
            let io = Attention {
                q: &q_buffer,
                k: &k_buffer,
                v: &v_buffer,
                rows: &rows_buffer,
                count: rows.len(),
                out: &out,
            };
            let spans = Spans {
                table: &gpu().upload(bytemuck::cast_slice(&spans)),
                count: sequences,
                longest,
            };
            attention_tile(gpu(), &geometry, &io, &spans, seen);
            close(
                &format!("tiles {geometry:?}"),
                &written(&out, q.len()),
                &want,
                3e-5,
            );
            if kind == AdapterKind::Software {
                let out = blank(q.len());
                let io = Attention { out: &out, ..io };
                attention_rows(gpu(), &geometry, &io, &spans, seen);
                let name = format!("rows {geometry:?}");
                close(&name, &written(&out, q.len()), &want, 3e-5);
            }
            // As they are, and so often that hardware uses smaller workgroups.
            let many = WIDE_BELOW.div_ceil(rows.len() * heads);
            for times in [1, many] {
                let (rows, q, want) = (rows.repeat(times), q.repeat(times), want.repeat(times));
                let out = blank(q.len());
                let io = Attention {
                    q: &padded(&q, geometry.width()),
                    rows: &table(&rows),
                    count: rows.len(),
                    out: &out,
                    ..io
                };
                attention_split(gpu(), &geometry, &io, geometry.slots);
                let name = format!("split {geometry:?} {} rows", rows.len());
                close(&name, &written(&out, q.len()), &want, 3e-5);
            }
        }
    }
}

/// Slots that a row attends to beyond its prefix: only its own, or up to 32 around it.
fn own_range(random: &mut Random, row: &Row, slots: usize) -> [u32; 2] {
    if row.slot < row.prefix || random.below(2) == 0 {
        return own_slot(row.slot, row.prefix);
    }
    let before = random.between(0, ((row.slot - row.prefix) as usize).min(15)) as u32;
    let after = random.between(1, (slots - row.slot as usize).min(16)) as u32;
    [row.slot - before, row.slot + after]
}

/// A NaN among what a row sees affects all of that row's results, and nothing else.
#[test]
fn what_is_not_a_number_spreads() {
    for kv_heads in [2, 1] {
        spreads(kv_heads);
    }
}

fn spreads(kv_heads: usize) {
    let mut random = Random(11);
    let geometry = Geometry {
        heads: 2,
        kv_heads,
        head_dim: 12,
        slots: 9,
        cache: Precision::F32,
        kind: gpu().info.kind,
    };
    let size = geometry.slots * geometry.kv_width();
    let lone = |(slot, prefix)| (slot, prefix, own_slot(slot, prefix));
    let ranges = [(5, 3, [4, 7]), (7, 1, [5, 9]), (2, 0, [2, 5])];
    let rows: Vec<Row> = [(0, 1), (1, 4), (8, 0), (3, 5), (6, 9)]
        .into_iter()
        .map(lone)
        .chain(ranges)
        .map(|(slot, prefix, own)| Row {
            sequence: 0,
            slot,
            position: slot,
            prefix,
            own,
            source: MASKED,
            target: NO_TARGET,
        })
        .collect();
    let q = random.values(rows.len() * geometry.width());
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for is_key in [true, false] {
            let (mut k, mut v) = (random.values(size), random.values(size));
            let broken = match is_key {
                true => &mut k,
                false => &mut v,
            };
            // A score of minus infinity has no weight, like a very low one.
            let value = if is_key { f32::NAN } else { strange };
            broken[4 * geometry.kv_width()..5 * geometry.kv_width()].fill(value);
            let (q_buffer, rows_buffer) = (padded(&q, geometry.width()), table(&rows));
            for variant in [
                AttentionVariant::Split,
                AttentionVariant::Tile,
                AttentionVariant::Rows,
            ] {
                let out = blank(q.len());
                let io = Attention {
                    q: &q_buffer,
                    k: &floats(&k),
                    v: &floats(&v),
                    rows: &rows_buffer,
                    count: rows.len(),
                    out: &out,
                };
                let spans = Spans {
                    table: &gpu().upload(bytemuck::cast_slice(&[[0u32, rows.len() as u32]])),
                    count: 1,
                    longest: rows.len(),
                };
                match variant {
                    AttentionVariant::Split => {
                        attention_split(gpu(), &geometry, &io, geometry.slots)
                    }
                    AttentionVariant::Tile => attention_tile(gpu(), &geometry, &io, &spans, 9),
                    AttentionVariant::Rows => attention_rows(gpu(), &geometry, &io, &spans, 9),
                }
                let got = written(&out, q.len());
                for (row, got) in rows.iter().zip(got.chunks(geometry.width())) {
                    let is_finite = got.iter().all(|value| value.is_finite());
                    let is_broken = got.iter().all(|value| !value.is_finite());
                    assert!(
                        if row.sees(4) { is_broken } else { is_finite },
                        "{row:?}: {got:?}"
                    );
                }
            }
        }
    }
}
