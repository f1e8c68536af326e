//! Products with everything that comes before and after them.

use super::*;

pub const VARIANTS: [ProductVariant; 3] = [
    ProductVariant::Rows,
    ProductVariant::Split,
    ProductVariant::Tile,
];

/// Rows, inner and outer sizes around every block boundary.
fn shapes(random: &mut Random) -> Vec<(usize, usize, usize)> {
    let mut shapes = vec![
        (1, 4, 1),
        (2, 64, 97),
        (3, 192, 130),
        (8, 256, 64),
        (9, 20, 33),
        (63, 36, 68),
        (65, 64, 65),
        (130, 128, 100),
        (5, 64, 40),
    ];
    shapes.extend((0..2).map(|_| {
        (
            random.between(1, 80),
            4 * random.between(1, 60),
            random.between(1, 300),
        )
    }));
    shapes
}

#[test]
fn products() {
    let mut random = Random(4);
    for (case, (rows, k, n)) in shapes(&mut random).into_iter().enumerate() {
        let x = random.values(rows * k);
        let weight: Vec<f32> = random
            .values(k * n)
            .iter()
            .map(|w| w / (k as f32).sqrt())
            .collect();
        let bias = random.values(n);
        let mut old = random.values(rows * n.next_multiple_of(4));
        old.extend([f32::NAN; 4]);
        for weights in WEIGHTS {
            // Compiling takes a software adapter a second each: forms of fewer bits take some of the shapes.
            let takes = match weights {
                Weights::F32 => true,
                Weights::F16 => case % 2 == 0,
                Weights::Q8 => case % 3 == 0,
                Weights::Q4 => case % 3 == 2,
            };
            if !takes {
                continue;
            }
            let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), weights).unwrap();
            let held = rounded_matrix(&weight, n, weights);
            for variant in VARIANTS {
                for fused in [false, true] {
                    if fused && variant == ProductVariant::Tile {
                        continue;
                    }
                    let name =
                        format!("{variant:?} {weights} norm={fused} rows={rows} k={k} n={n}");
                    let stride = matrix.padded();
                    let want = product_twin(&x, k, &held, &bias, fused);
                    let unpad = |out: &Buffer| -> Vec<f32> {
                        let out = written(out, rows * stride);
                        out.chunks(stride)
                            .flat_map(|row| row[..n].to_vec())
                            .collect()
                    };
                    let x_buffer = padded(&x, k);
                    let out = blank(rows * stride);
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Store(&out),
                    );
                    close(&name, &unpad(&out), &want, 3e-5);
                    if n % 4 != 0 || weights != Weights::F32 || k > 64 {
                        continue;
                    }
                    let out = blank(rows * stride);
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Gelu(&out),
                    );
                    let gelu: Vec<f32> = want.iter().map(|&y| gelu_twin(y)).collect();
                    close(&format!("gelu {name}"), &unpad(&out), &gelu, 3e-5);
                    let out = floats(&old);
                    product(
                        gpu(),
                        variant,
                        fused,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Add(&out),
                    );
                    let sum: Vec<f32> = want.iter().zip(&old).map(|(y, o)| y + o).collect();
                    close(&format!("add {name}"), &unpad(&out), &sum, 3e-5);
                }
            }
        }
    }
}

/// Sizes of tiles and of workgroups that only large products have.
#[test]
fn large_products() {
    let mut random = Random(14);
    for (variant, rows, k, n) in [
        (ProductVariant::Tile, 627, 44, 604),
        (ProductVariant::Split, 5, 36, 12_291),
    ] {
        let x = random.values(rows * k);
        let (weight, bias) = (random.values(k * n), random.values(n));
        for weights in WEIGHTS {
            let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), weights).unwrap();
            let held = rounded_matrix(&weight, n, weights);
            let want = product_twin(&x, k, &held, &bias, false);
            let stride = matrix.padded();
            let out = blank(rows * stride);
            let x = padded(&x, k);
            product(
                gpu(),
                variant,
                false,
                &x,
                0..rows,
                &matrix,
                &Finish::Store(&out),
            );
            let out = written(&out, rows * stride);
            let got: Vec<f32> = out
                .chunks(stride)
                .flat_map(|row| row[..n].to_vec())
                .collect();
            close(&format!("{variant:?} {weights}"), &got, &want, 1e-4);
        }
    }
}

#[test]
fn products_start_at_a_row() {
    let mut random = Random(5);
    let (rows, k, n) = (24, 32, 40);
    let (mut x, weight, bias) = (
        random.values(rows * k),
        random.values(k * n),
        random.values(n),
    );
    x[..8 * k].fill(f32::NAN);
    x[20 * k..].fill(f32::NAN);
    let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), Weights::F32).unwrap();
    let want = product_twin(&x[8 * k..20 * k], k, &weight, &bias, false);
    for variant in VARIANTS {
        let out = blank(12 * n);
        product(
            gpu(),
            variant,
            false,
            &padded(&x, k),
            8..20,
            &matrix,
            &Finish::Store(&out),
        );
        close("row0", &written(&out, 12 * n), &want, 1e-4);
    }
}

/// A column's scales and codes are its own, up to the last group, which is short here.
#[test]
fn a_column_that_is_not_finite_leaves_the_others_alone() {
    let mut random = Random(13);
    let (rows, k, n) = (5, 68, 43);
    let (x, mut weight, bias) = (
        random.values(rows * k),
        random.values(k * n),
        random.values(n),
    );
    for weights in [Weights::Q8, Weights::Q4] {
        for poisoned in [0, 22, 41] {
            let sound = weight.clone();
            for value in weight.iter_mut().skip(poisoned).step_by(n) {
                *value = poison(weights);
            }
            let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), weights).unwrap();
            weight = sound;
            let held = rounded_matrix(&weight, n, weights);
            let mut want = product_twin(&x, k, &held, &bias, false);
            want.iter_mut()
                .skip(poisoned)
                .step_by(n)
                .for_each(|y| *y = f32::NAN);
            for variant in VARIANTS {
                let out = blank(rows * matrix.padded());
                let x = padded(&x, k);
                product(
                    gpu(),
                    variant,
                    false,
                    &x,
                    0..rows,
                    &matrix,
                    &Finish::Store(&out),
                );
                let got = written(&out, rows * matrix.padded());
                let got = got
                    .chunks(matrix.padded())
                    .flat_map(|row| row[..n].to_vec());
                let got: Vec<f32> = got.collect();
                close(
                    &format!("{variant:?} {weights} {poisoned}"),
                    &got,
                    &want,
                    1e-4,
                );
            }
        }
    }
}

/// 1 / infinity would make zeros of it, and a text of those.
#[test]
fn a_row_whose_squares_overflow_is_not_a_number() {
    let mut random = Random(12);
    let (rows, k, n) = (5, 32, 40);
    let (mut x, weight, bias) = (
        random.values(rows * k),
        random.values(k * n),
        random.values(n),
    );
    x[2 * k + 3] = 1e25;
    let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), Weights::F32).unwrap();
    let mut want = product_twin(&x, k, &weight, &bias, true);
    want[2 * n..3 * n].fill(f32::NAN);
    for variant in [ProductVariant::Rows, ProductVariant::Split] {
        let out = blank(rows * n);
        let x = padded(&x, k);
        product(
            gpu(),
            variant,
            true,
            &x,
            0..rows,
            &matrix,
            &Finish::Store(&out),
        );
        close("norm", &written(&out, rows * n), &want, 1e-4);
    }
}

#[test]
fn qkv_turns_and_scatters() {
    let mut random = Random(6);
    let shapes = [(2, 8), (3, 12), (1, 64), (2, 128), (6, 32)];
    for (cache, weights, shapes) in [
        (Precision::F32, Weights::F32, &shapes[..]),
        (Precision::F16, Weights::F32, &shapes),
        (Precision::F32, Weights::Q8, &shapes[1..2]),
        (Precision::F16, Weights::Q4, &shapes[1..2]),
    ] {
        for &(heads, head_dim) in shapes {
            let hidden = heads * head_dim;
            let (sequences, slots) = (random.between(1, 3), random.between(2, 20));
            let rows = random_rows(&mut random, sequences, slots, 14);
            let x = random.values(rows.len() * hidden);
            let weight: Vec<f32> = random
                .values(hidden * 3 * hidden)
                .iter()
                .map(|w| w / (hidden as f32).sqrt())
                .collect();
            let mut bias = random.values(3 * hidden);
            if cache == Precision::F16 {
                // A column of k and one of v that f16 does not hold.
                bias[hidden + 1] = 1e5;
                bias[3 * hidden - 1] = -1e5;
            }
            let mut angles = rotary_table(slots, head_dim, esolm::config::ROTARY_BASE);
            for (position, angles) in (0..).zip(angles.chunks_mut(head_dim)) {
                if rows.iter().all(|row| row.position != position) {
                    angles.fill(f32::NAN);
                }
            }
            let matrix = Matrix::upload(gpu(), &linear(&weight, &bias), weights).unwrap();
            let held = rounded_matrix(&weight, 3 * hidden, weights);
            let mut want = product_twin(&x, hidden, &held, &bias, false);
            for (row, y) in rows.iter().zip(want.chunks_mut(3 * hidden)) {
                let position = row.position as usize;
                for part in y.chunks_mut(hidden).take(2) {
                    rotary_twin(part, position, head_dim, &angles);
                }
            }
            // Slots of no row stay as they were.
            let size = sequences * slots * hidden;
            let mut cached = [vec![f32::NAN; size], vec![f32::NAN; size]];
            for (row, y) in rows.iter().zip(want.chunks(3 * hidden)) {
                let place = (row.sequence as usize * slots + row.slot as usize) * hidden;
                cached[0][place..place + hidden].copy_from_slice(&y[hidden..2 * hidden]);
                cached[1][place..place + hidden].copy_from_slice(&y[2 * hidden..]);
            }
            for value in cached.iter_mut().flatten() {
                // What f16 holds at most.
                if cache == Precision::F16 && value.abs() > 65504.0 {
                    *value = f32::NAN;
                }
            }
            for variant in VARIANTS {
                let empty = vec![f32::NAN; size];
                let (q, k, v) = (
                    blank(rows.len() * hidden),
                    cache_of(&empty, cache),
                    cache_of(&empty, cache),
                );
                let (rows_buffer, rotary) = (table(&rows), floats(&angles));
                let to = Qkv {
                    q: &q,
                    rows: &rows_buffer,
                    rotary: &rotary,
                    k: &k,
                    v: &v,
                    slots,
                    head_dim,
                    cache,
                };
                product(
                    gpu(),
                    variant,
                    false,
                    &padded(&x, hidden),
                    0..rows.len(),
                    &matrix,
                    &Finish::Qkv(to),
                );
                let want_q: Vec<f32> = want
                    .chunks(3 * hidden)
                    .flat_map(|y| y[..hidden].to_vec())
                    .collect();
                let got_q = written(&q, want_q.len());
                close(&format!("q {variant:?} {weights}"), &got_q, &want_q, 5e-5);
                for (buffer, want) in [(&k, &cached[0]), (&v, &cached[1])] {
                    let (mut got, tolerance) = match cache {
                        Precision::F32 => (read(buffer), 5e-5),
                        Precision::F16 => (unpack(buffer), 1e-3),
                    };
                    got.truncate(size);
                    close(
                        &format!("cache {variant:?} {weights} {cache}"),
                        &got,
                        want,
                        tolerance,
                    );
                }
            }
        }
    }
}
/// The floats of a packed f16 buffer.
fn unpack(buffer: &Buffer) -> Vec<f32> {
    let bytes = pollster::block_on(gpu().read(buffer)).expect("the kernel ran");
    bytes
        .chunks(2)
        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect()
}
