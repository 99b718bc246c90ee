//! Experts that a router picks. The router's scores come to the host, which picks: one crossing back and two forth in each
//! layer, the only ones inside a pass. candle multiplies by picked experts on the device for some quantisations only, and
//! not on processors, where this code is tested.

use candle_core::{Result, Tensor};

use super::input::Input;
use super::link::Link;
use super::matrix::GpuMatrix;
use super::network::gated;
use crate::decoder::config::{Activation, Experts};
use crate::decoder::reference::route;
use crate::decoder::weights::Gated;

/// Each row of `x` through its experts.
pub(super) fn forward(
    link: &Link,
    router: &GpuMatrix,
    experts: &[Gated<GpuMatrix>],
    routing: &Experts,
    activation: Activation,
    x: &Tensor,
) -> Result<Tensor> {
    let scores = link.down::<f32>(&router.forward(&Input::Numbers(x.clone()))?)?;
    let mut picked = vec![(Vec::new(), Vec::new()); experts.len()];
    for (row, scores) in (0..).zip(scores.chunks_exact(experts.len().max(1))) {
        for (expert, weight) in route(scores, routing) {
            if let Some((rows, weights)) = picked.get_mut(expert) {
                rows.push(row);
                weights.push(weight);
            }
        }
    }
    let all_rows: Vec<u32> = picked.iter().flat_map(|(rows, _)| rows).copied().collect();
    let all_weights: Vec<f32> = picked.iter().flat_map(|(_, all)| all).copied().collect();
    let len = all_rows.len();
    let (all_rows, all_weights) = (link.up(all_rows, len)?, link.up(all_weights, (len, 1))?);
    let mut out = x.zeros_like()?;
    let mut first = 0;
    for (expert, (rows, _)) in experts.iter().zip(&picked) {
        let count = rows.len();
        if count == 0 {
            continue;
        }
        let rows = all_rows.narrow(0, first, count)?;
        let weights = all_weights.narrow(0, first, count)?;
        first += count;
        let kept = link.parameters_kept();
        let input = Input::Numbers(x.index_select(&rows, 0)?);
        let (gate, up) = (expert.gate.forward(&input)?, expert.up.forward(&input)?);
        let through = gated(None, activation, &gate, &up)?;
        let made = expert.down.forward(&Input::Numbers(through))?;
        let made = made.broadcast_mul(&weights)?;
        out = out.index_add(&rows, &made, 0)?;
        drop(kept);
    }
    Ok(out)
}
