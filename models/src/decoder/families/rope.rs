//! How a family's file says that positions are rotated.

use super::metadata::{CONTEXT_MAX, Metadata, WIDTH_MAX};
use crate::decoder::ArchitectureError;
use crate::decoder::config::{RopeConfig, RopePairs, RopeScaling};

/// How a family rotates, as far as its file does not say.
pub(super) struct RopeRules {
    pub(super) pairs: RopePairs,
    /// Whether the family may have tensors of factors for short and long contexts.
    pub(super) factors: Factors,
    /// Whether the file's constants of YaRN are heeded, or its usual ones hold.
    pub(super) yarn_constants: bool,
}

/// When a family reads `rope_factors_short.weight` and `rope_factors_long.weight`.
#[derive(PartialEq)]
pub(super) enum Factors {
    Never,
    /// When `rope.scaling.type` is `longrope`.
    WhenSaid,
    /// When the tensors are there.
    WhenThere,
}

/// Positions are never squeezed to less than this part.
const FACTOR_MAX: f32 = 1e6;

impl Metadata<'_> {
    pub(super) fn rope(&self, rules: &RopeRules) -> Result<RopeConfig, ArchitectureError> {
        let dimensions = self.size("rope.dimension_count", WIDTH_MAX)?;
        let head_width = self.head_width()?;
        Ok(RopeConfig {
            dimensions: dimensions.unwrap_or(head_width),
            base: f64::from(self.positive("rope.freq_base")?.unwrap_or(10_000.0)),
            pairs: rules.pairs,
            scaling: self.rope_scaling(rules)?,
        })
    }

    fn rope_scaling(&self, rules: &RopeRules) -> Result<RopeScaling, ArchitectureError> {
        let kind = self.text("rope.scaling.type")?.unwrap_or("linear");
        let factor = match self.positive_unless_zero("rope.scaling.factor")? {
            None => self.positive_unless_zero("rope.scale_linear")?,
            found => found,
        };
        let factor = factor.unwrap_or(1.0);
        if !(1.0 / FACTOR_MAX..=FACTOR_MAX).contains(&factor) {
            return Err(self.variant("rope.scaling.factor", &factor.to_string()));
        }
        let scale = f64::from(1.0 / factor);
        let attention_factor = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let original = self.size("rope.scaling.original_context_length", CONTEXT_MAX)?;
        let original_context = original.map_or_else(|| self.context(), Ok)?;
        let tensors = self.has_tensor("rope_factors_short.weight")
            || self.has_tensor("rope_factors_long.weight");
        let reads_tensors = match rules.factors {
            Factors::Never => false,
            Factors::WhenSaid => kind == "longrope",
            Factors::WhenThere => kind != "yarn",
        };
        let scaling = match kind {
            "none" | "linear" | "longrope" if tensors && reads_tensors => {
                return Ok(RopeScaling::Factors {
                    scale: if kind == "none" { 1.0 } else { scale },
                    original_context,
                    attention_factor,
                });
            }
            "none" => RopeScaling::None,
            "linear" => squeezed(scale),
            "longrope" if rules.factors != Factors::Never => squeezed(scale),
            "yarn" => {
                let attention_factor = attention_factor * self.yarn_attention(rules, factor)?;
                let constant = |name, usual: f32| match rules.yarn_constants {
                    true => Ok(self.positive(name)?.unwrap_or(usual)),
                    false => Ok::<_, ArchitectureError>(usual),
                };
                return Ok(RopeScaling::Yarn {
                    scale,
                    original_context,
                    beta_fast: constant("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: constant("rope.scaling.yarn_beta_slow", 1.0)?,
                    attention_factor,
                });
            }
            other => return Err(self.variant("rope.scaling.type", other)),
        };
        match attention_factor == 1.0 {
            true => Ok(scaling),
            false => Err(self.variant("rope.scaling.attn_factor", &attention_factor.to_string())),
        }
    }

    /// What cosines and sines are multiplied by because of a YaRN `factor`.
    fn yarn_attention(&self, rules: &RopeRules, factor: f32) -> Result<f32, ArchitectureError> {
        let magnitude = |times: f32| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * times * factor.ln() + 1.0,
        };
        let usual = 1.0 + 0.1 * factor.ln();
        let times = match rules.yarn_constants {
            true => self.positive_unless_zero("rope.scaling.yarn_log_multiplier")?,
            false => None,
        };
        // Its inverse is multiplied in when the angles are made, whence the detour.
        Ok(magnitude(1.0) / times.map_or(1.0, magnitude) * (1.0 / usual) * usual)
    }
}

fn squeezed(scale: f64) -> RopeScaling {
    match scale == 1.0 {
        true => RopeScaling::None,
        false => RopeScaling::Linear(scale),
    }
}
