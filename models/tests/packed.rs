//! Packed weights against candle's reading of the same blocks: every kind, any bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use casemate_kernels::{Kind, Packed, Pool};

const KINDS: [(Kind, GgmlDType); 13] = [
    (Kind::F32, GgmlDType::F32),
    (Kind::F16, GgmlDType::F16),
    (Kind::BF16, GgmlDType::BF16),
    (Kind::Q4_0, GgmlDType::Q4_0),
    (Kind::Q4_1, GgmlDType::Q4_1),
    (Kind::Q5_0, GgmlDType::Q5_0),
    (Kind::Q5_1, GgmlDType::Q5_1),
    (Kind::Q8_0, GgmlDType::Q8_0),
    (Kind::Q2K, GgmlDType::Q2K),
    (Kind::Q3K, GgmlDType::Q3K),
    (Kind::Q4K, GgmlDType::Q4K),
    (Kind::Q5K, GgmlDType::Q5K),
    (Kind::Q6K, GgmlDType::Q6K),
];

#[test]
fn every_kind_is_worth_what_candle_says() {
    const ROWS: usize = 37;
    const COLUMNS: usize = 768;
    let pool = Pool::new(2).unwrap();
    let mut state = 1_u64;
    for (kind, theirs) in KINDS {
        assert_eq!(kind.file_bytes(), theirs.type_size());
        assert_eq!(kind.file_block(), theirs.block_size());
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        };
        let len = ROWS * COLUMNS / kind.file_block() * kind.file_bytes();
        let bytes: Vec<u8> = (0..len).map(|_| byte()).collect();
        let packed = Packed::new(kind, ROWS, COLUMNS, &bytes, &pool).unwrap();
        let storage = QStorage::from_data(bytes.into(), &Device::Cpu, theirs).unwrap();
        let tensor = QTensor::new(storage, (ROWS, COLUMNS)).unwrap();
        let values = tensor.dequantize(&Device::Cpu).unwrap();
        let values: Vec<Vec<f32>> = values.to_vec2().unwrap();
        let mut row = vec![0.0; COLUMNS];
        for (at, expected) in values.iter().enumerate() {
            assert!(packed.row(at, &mut row));
            for (found, expected) in row.chunks(32).zip(expected.chunks(32)) {
                block_agrees(kind, found, expected);
            }
        }
    }
}

/// Halves become steps of 1/8191 of the largest magnitude of 32, rounded up to BF16; one that is no number makes all of them
/// none. All else is what the file says.
fn block_agrees(kind: Kind, found: &[f32], expected: &[f32]) {
    let halves = matches!(kind, Kind::F16 | Kind::BF16);
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let none = halves && expected.iter().any(|x| !x.is_finite());
    for (found, expected) in found.iter().zip(expected) {
        let bar = if halves {
            largest * 1.008 / 16_382.0
        } else {
            1e-6 * expected.abs()
        };
        let close = (found - expected).abs() <= bar;
        let neither = !found.is_finite() && (none || !expected.is_finite());
        assert!(
            if none { neither } else { close || neither },
            "{kind:?}: {found} is not {expected}"
        );
    }
}
