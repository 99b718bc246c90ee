//! Each operation against plain arithmetic, and the roundings that candle's and ggml's differ in.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module};

use super::*;
use crate::engine::sampler::Draws;

/// Between -4 and 4, the same for one seed.
fn random(seed: u64, shape: (usize, usize, usize)) -> Tensor {
    let mut points = Draws::new(seed);
    let (rows, columns, width) = shape;
    let numbers = (0..rows * columns * width).map(|_| (points.next_point() * 8.0 - 4.0) as f32);
    Tensor::from_vec(numbers.collect(), shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims());
    for (found, expected) in values(found).into_iter().zip(values(expected)) {
        let off = (found - expected).abs() / expected.abs().max(1.0);
        assert!(off < 1e-5, "{found} instead of {expected}");
    }
}

#[test]
fn halves_are_rounded_to_even_and_the_largest_value_stays() {
    let mut row = [0.0_f32; BLOCK];
    row[..6].copy_from_slice(&[127.0, 0.5, 1.5, -2.5, 126.6, -126.4]);
    let mut out = [9.0; BLOCK];
    snap_row(&row, &mut out);
    assert_eq!(out[..7], [127.0, 0.0, 2.0, -2.0, 127.0, -126.0, 0.0]);
    snap_row(&[0.0; BLOCK], &mut out);
    assert_eq!(out, [0.0; BLOCK]);
}

#[test]
fn the_library_finds_the_steps_that_were_snapped_to() {
    // A matrix of one 127 per row reads the steps out again: 127 is what Q8_0 makes of the only value of a block.
    let one_hot = Tensor::eye(BLOCK, candle_core::DType::F32, &Device::Cpu).unwrap();
    let weight = QTensor::quantize(&one_hot, GgmlDType::Q8_0).unwrap();
    let matrix = QMatMul::from_qtensor(weight).unwrap();
    let x = random(1, (1, 400, BLOCK)).squeeze(0).unwrap();
    let product = matrix.forward(&snap(&x).unwrap()).unwrap();
    for (row, found) in values(&x).chunks(BLOCK).zip(values(&product).chunks(BLOCK)) {
        let max = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        for (x, found) in row.iter().zip(found) {
            let steps = (x * (127.0 / max)).round_ties_even();
            // The scales are stored with 11 bits each.
            let expected = steps * max / 127.0;
            assert!((found - expected).abs() <= expected.abs() / 900.0, "{x}");
        }
    }
}

#[test]
fn the_exponential_is_within_three_units_of_the_last_place() {
    for step in -12_000..=8_800 {
        let x = step as f32 / 100.0;
        let (found, exact) = (exp(x), f64::from(x).exp());
        let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
        assert!(
            (f64::from(found) - exact).abs() <= 3.0 * unit,
            "{x}: {found}"
        );
    }
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-1e9), 0.0);
    assert_eq!(exp(1e9), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn norm_softmax_and_gate_are_what_the_library_computes() {
    for rows in [1, 3, 300] {
        let x = random(2, (1, rows, 172)).squeeze(0).unwrap();
        let up = random(3, (1, rows, 172)).squeeze(0).unwrap();
        let weight = random(4, (1, 1, 172)).flatten_all().unwrap();
        let expected = candle_nn::ops::rms_norm(&x, &weight, 1e-5).unwrap();
        close(&rms_norm(&x, &values(&weight), 1e-5).unwrap(), &expected);
        let expected = candle_nn::ops::softmax_last_dim(&(&x * 0.5).unwrap()).unwrap();
        close(&softmax(&x, 0.5).unwrap(), &expected);
        let expected = (candle_nn::ops::silu(&x).unwrap() * &up).unwrap();
        close(&swiglu(&x, &up).unwrap(), &expected);
    }
    assert!(rms_norm(&random(5, (1, 1, 8)), &[1.0; 7], 1e-5).is_err());
    assert!(swiglu(&random(6, (1, 2, 8)), &random(7, (1, 1, 8))).is_err());
}

#[test]
fn attention_is_what_the_library_computes() {
    // Keys and values lie in a cache with room for more; heads of 64 columns go the library's way.
    for (rows, columns, tokens) in [(1, 8, 5), (1, 16, 100), (40, 8, 70), (3, 64, 9)] {
        let cache = random(8, (2, 128, columns));
        let stored = cache.narrow(1, 0, tokens).unwrap();
        let queries = (random(9, (2, rows, columns)) * 0.1).unwrap();
        let found = scores(&queries, &stored).unwrap();
        let expected = queries.matmul(&stored.t().unwrap().contiguous().unwrap());
        close(&found, &expected.unwrap());
        let weights = softmax(&found, 0.3).unwrap();
        let expected = weights.matmul(&stored.contiguous().unwrap()).unwrap();
        for together in [true, false] {
            close(&weigh(&weights, &stored, together).unwrap(), &expected);
        }
    }
    assert!(scores(&random(10, (2, 1, 8)), &random(11, (1, 4, 8))).is_err());
    assert!(weigh(&random(12, (2, 1, 4)), &random(13, (2, 5, 8)), true).is_err());
}

#[test]
fn rotations_turn_pairs_and_leave_the_rest() {
    let x = Tensor::new(&[[[1.0_f32, 0.0, 3.0], [0.0, 2.0, 5.0]]], &Device::Cpu).unwrap();
    let quarter = (0.0, 1.0);
    let turned = rotate(&x, &[quarter, quarter], 1).unwrap();
    assert_eq!(values(&turned), [0.0, 1.0, 3.0, -2.0, 0.0, 5.0]);
    assert!(rotate(&x, &[quarter], 1).is_err());
}
