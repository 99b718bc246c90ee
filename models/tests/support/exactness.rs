//! How far an engine is from the exact result, for weights of every kind.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::tiny_model::{Family, Sizes, TinyModel};

/// What weights may be stored as.
pub const KINDS: [GgmlDType; 12] = [
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q4K,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8_0,
];

/// The same weights as floats: what a quantised model would say if activations were not rounded.
fn unrounded(model: &TinyModel, kind: GgmlDType) -> TinyModel {
    let mut exact = model.clone();
    for tensor in exact
        .tensors
        .values_mut()
        .filter(|tensor| tensor.shape.len() > 1)
    {
        let floats = std::mem::take(&mut tensor.floats);
        let floats = Tensor::from_vec(floats, tensor.shape.clone(), &Device::Cpu).unwrap();
        let rounded = QTensor::quantize(&floats, kind).unwrap();
        let floats = rounded.dequantize(&Device::Cpu).unwrap().flatten_all();
        tensor.floats = floats.unwrap().to_vec1().unwrap();
    }
    exact
}

/// Errors of the logits after the same text, of an engine and of the reference: the root of the sum of squares, of as many
/// models of a kind as there are seeds.
pub fn errors(
    kind: GgmlDType,
    seeds: u64,
    ours: impl Fn(&TinyModel) -> Vec<f32>,
    reference: impl Fn(&TinyModel) -> Vec<f32>,
) -> (f32, f32) {
    let sizes = Sizes {
        width: 256,
        head_width: 64,
        feed_forward: 512,
        ..Sizes::default()
    };
    let spread = |exact: &[f32], found: &[f32]| {
        let squares = exact.iter().zip(found).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f32>().sqrt()
    };
    let (mut own, mut theirs) = (0.0, 0.0);
    for seed in 0..seeds {
        let model = TinyModel::sized(Family::Llama, seed, sizes);
        let exact = reference(&unrounded(&model, kind));
        let quantised = model.quantised(kind);
        own += spread(&exact, &ours(&quantised));
        theirs += spread(&exact, &reference(&quantised));
    }
    (own, theirs)
}
