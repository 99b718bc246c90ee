//! Refuses tensors with numbers that are not finite: one of them makes every answer of a model noise, without an error.
//! In quantised tensors only the scales of blocks can be such; the rest is integers.

use super::TensorType;

/// Checks a tensor's bytes.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check(kind: TensorType, bytes: &[u8]) -> Result<(), String> {
    use candle_core::quantized::GgmlDType::{
        BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8_1, Q8K,
    };
    // For each type how long a block is and where its 16-bit scales lie.
    let finite = match kind {
        F32 => wide::<4>(bytes, 0),
        F16 => all_halves(bytes, HALF_EXPONENT),
        BF16 => all_halves(bytes, BRAIN_EXPONENT),
        Q4_0 => scales::<18, 1>(bytes, 0),
        Q4_1 => scales::<20, 2>(bytes, 0),
        Q5_0 => scales::<22, 1>(bytes, 0),
        Q5_1 => scales::<24, 2>(bytes, 0),
        Q8_0 => scales::<34, 1>(bytes, 0),
        Q8_1 => scales::<36, 2>(bytes, 0),
        Q2K => scales::<84, 2>(bytes, 80),
        Q3K => scales::<110, 1>(bytes, 108),
        Q4K => scales::<144, 2>(bytes, 0),
        Q5K => scales::<176, 2>(bytes, 0),
        Q6K => scales::<210, 1>(bytes, 208),
        Q8K => wide::<292>(bytes, 0),
    };
    match (finite, kind) {
        (true, _) => Ok(()),
        (false, F32 | F16 | BF16) => Err("it has a number that is not finite".to_owned()),
        (false, _) => Err("it has a block whose scale is not finite".to_owned()),
    }
}

/// The exponent of an F16 that is infinite or no number.
const HALF_EXPONENT: u16 = 0x7c00;
/// The same of a BF16.
const BRAIN_EXPONENT: u16 = 0x7f80;
const EXPONENT: u32 = 0x7f80_0000;

/// Whether every number is finite: all of them are looked at, so that compilers vectorise the loop.
fn all_halves(bytes: &[u8], exponent: u16) -> bool {
    let (pairs, _) = bytes.as_chunks::<2>();
    let infinite = |pair: &[u8; 2]| u16::from_le_bytes(*pair) & exponent == exponent;
    !pairs
        .iter()
        .fold(false, |found, pair| found | infinite(pair))
}

/// Whether the F32 at `at` of each block of `LEN` bytes is finite.
fn wide<const LEN: usize>(bytes: &[u8], at: usize) -> bool {
    let (blocks, _) = bytes.as_chunks::<LEN>();
    let infinite = |block: &[u8; LEN]| {
        let number = block.get(at..).and_then(|rest| rest.first_chunk::<4>());
        number.is_none_or(|number| u32::from_le_bytes(*number) & EXPONENT == EXPONENT)
    };
    !blocks
        .iter()
        .fold(false, |found, block| found | infinite(block))
}

/// Whether the `COUNT` F16 from `at` on of each block of `LEN` bytes are finite.
fn scales<const LEN: usize, const COUNT: usize>(bytes: &[u8], at: usize) -> bool {
    let (blocks, _) = bytes.as_chunks::<LEN>();
    let infinite = |block: &[u8; LEN]| {
        let halves = block.get(at..at + 2 * COUNT).unwrap_or_default();
        let (halves, _) = halves.as_chunks::<2>();
        let infinite = |half: &[u8; 2]| u16::from_le_bytes(*half) & HALF_EXPONENT == HALF_EXPONENT;
        halves.len() != COUNT || halves.iter().any(infinite)
    };
    !blocks
        .iter()
        .fold(false, |found, block| found | infinite(block))
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    const KINDS: [TensorType; 13] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2K,
        TensorType::Q3K,
        TensorType::Q4K,
        TensorType::Q5K,
        TensorType::Q6K,
    ];

    /// Where the scales of the type's blocks lie: found from what infinite scales make of the values.
    fn made(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
        let storage =
            candle_core::quantized::QStorage::from_data(bytes.into(), &Device::Cpu, kind).unwrap();
        let columns = bytes.len() / kind.type_size() * kind.block_size();
        let tensor = QTensor::new(storage, (1, columns)).unwrap();
        let wide = tensor.dequantize(&Device::Cpu).unwrap();
        wide.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn wherever_infinite_bits_make_values_infinite_they_are_found() {
        for kind in KINDS {
            let x = Tensor::randn(0_f32, 1.0, (1, 512), &Device::Cpu).unwrap();
            let good = QTensor::quantize(&x, kind).unwrap();
            let good = good.data().unwrap().to_vec();
            assert_eq!(check(kind, &good), Ok(()), "{kind:?}");
            let step = if kind == TensorType::F32 { 4 } else { 2 };
            let mut found = 0;
            for at in (0..good.len()).step_by(step) {
                for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut bad = good.clone();
                    let bits = match kind {
                        TensorType::F32 => special.to_le_bytes().to_vec(),
                        TensorType::BF16 => special.to_le_bytes()[2..].to_vec(),
                        _ => half::f16::from_f32(special).to_le_bytes().to_vec(),
                    };
                    bad[at..at + step].copy_from_slice(&bits);
                    let noise = made(kind, &bad).iter().any(|value| !value.is_finite());
                    assert_eq!(check(kind, &bad).is_err(), noise, "{kind:?} at {at}");
                    found += usize::from(noise);
                }
            }
            assert!(found > 0, "{kind:?}");
        }
    }
}
