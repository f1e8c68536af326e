//! Products, with everything before and after them.

use super::*;

pub const VARIANTS: [ProductVariant; 3] = [
    ProductVariant::Rows,
    ProductVariant::Split,
    ProductVariant::Tile,
];

/// Rows, inner and outer sizes around all block boundaries.
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
            // Compiling takes a software adapter a second each, so forms with fewer bits use only some of the shapes.
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
                for norm in [None, Some(Norm::Layer), Some(RMS)] {
                    // Most of a form does not depend on the kind of norm.
                    let is_left_out = norm == Some(RMS) && case % 3 == 1;
                    if norm.is_some() && variant == ProductVariant::Tile || is_left_out {
                        continue;
                    }
                    let name = format!("{variant:?} {weights} {norm:?} rows={rows} k={k} n={n}");
                    let stride = matrix.padded();
                    let want = product_twin(&x, k, &held, &bias, norm);
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
                        norm,
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
                        norm,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Gelu(&out),
                    );
                    let gelu: Vec<f32> = want.iter().map(|&y| gelu_twin(y)).collect();
                    close(&format!("gelu {name}"), &unpad(&out), &gelu, 3e-5);
                    let out = blank(rows * n / 2);
                    product(
                        gpu(),
                        variant,
                        norm,
                        &x_buffer,
                        0..rows,
                        &matrix,
                        &Finish::Silu(&out),
                    );
                    let got = written(&out, rows * n / 2);
                    close(&format!("silu {name}"), &got, &silu_twin(&want), 3e-5);
                    let out = floats(&old);
                    product(
                        gpu(),
                        variant,
                        norm,
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
            let want = product_twin(&x, k, &held, &bias, None);
            let stride = matrix.padded();
            let out = blank(rows * stride);
            let x = padded(&x, k);
            product(
                gpu(),
                variant,
                None,
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
    let want = product_twin(&x[8 * k..20 * k], k, &weight, &bias, None);
    for variant in VARIANTS {
        let out = blank(12 * n);
        product(
            gpu(),
            variant,
            None,
            &padded(&x, k),
            8..20,
            &matrix,
            &Finish::Store(&out),
        );
        close("row0", &written(&out, 12 * n), &want, 1e-4);
    }
}

/// A column has its own scales and codes, up to the last group, which is short here.
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
            let mut want = product_twin(&x, k, &held, &bias, None);
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
                    None,
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

/// 1 / infinity would turn the row into zeros, from which a text could be written.
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
    for norm in [Norm::Layer, RMS] {
        let mut want = product_twin(&x, k, &weight, &bias, Some(norm));
        want[2 * n..3 * n].fill(f32::NAN);
        for variant in [ProductVariant::Rows, ProductVariant::Split] {
            let out = blank(rows * n);
            let x = padded(&x, k);
            product(
                gpu(),
                variant,
                Some(norm),
                &x,
                0..rows,
                &matrix,
                &Finish::Store(&out),
            );
            close("norm", &written(&out, rows * n), &want, 1e-4);
        }
    }
}

/// A gate far from zero lets either nothing or everything through, and a closed gate does not hide NaN.
#[test]
fn gates_close_and_open() {
    let (k, pairs) = (4, 6);
    let n = 2 * pairs;
    let gates = [-1e30, -500.0, -20.0, 90.0, f32::NAN, -500.0];
    let ups = [2.0, -3.0, 1.0, 2.5, 1.0, f32::NAN];
    let bias: Vec<f32> = (0..pairs).flat_map(|i| [gates[i], ups[i]]).collect();
    let matrix = Matrix::upload(gpu(), &linear(&vec![0.0; k * n], &bias), Weights::F32).unwrap();
    for variant in VARIANTS {
        let out = blank(pairs);
        product(
            gpu(),
            variant,
            None,
            &padded(&[1.0; 4], k),
            0..1,
            &matrix,
            &Finish::Silu(&out),
        );
        close("gates", &written(&out, pairs), &silu_twin(&bias), 1e-6);
    }
}
