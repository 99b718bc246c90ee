//! A model's metadata, key by key: every number that leaves here is bounded, and every refusal names its key.

use crate::decoder::ArchitectureError;
use crate::decoder::config::{
    Activation, DecoderConfig, Experts, FeedForwardConfig, Parts, RopeConfig, Window,
};
use crate::gguf::{Array, GgufHeader, Value};

/// Bounds of what metadata may claim: well above every published model.
const LAYERS_MAX: u64 = 1_024;
pub(super) const WIDTH_MAX: u64 = 1 << 17;
pub(super) const CONTEXT_MAX: u64 = 1 << 24;
const EXPERTS_MAX: u64 = 1_024;

/// Keys of one architecture.
pub(super) struct Metadata<'a> {
    header: &'a GgufHeader,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    /// The keys of `architecture`, unless they speak of something that no family here computes.
    pub(super) fn new(
        header: &'a GgufHeader,
        architecture: &'a str,
    ) -> Result<Self, ArchitectureError> {
        let metadata = Self {
            header,
            architecture,
        };
        let causal = header.boolean(&metadata.key("attention.causal"))?;
        if causal == Some(false) {
            return Err(metadata.variant("attention.causal", "false"));
        }
        for (name, usual) in [
            ("nextn_predict_layers", 0),
            ("expert_shared_count", 0),
            ("expert_group_count", 1),
        ] {
            if let Some(found) = metadata.unsigned(name)?.filter(|found| *found > usual) {
                return Err(metadata.variant(name, &found.to_string()));
            }
        }
        // First of all, since without a width nothing else makes sense.
        metadata.head_width()?;
        Ok(metadata)
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.header.tensor_index(name).is_some()
    }

    /// A variant that is not supported: the key and what it says.
    pub(super) fn variant(&self, name: &str, value: &str) -> ArchitectureError {
        ArchitectureError::UnsupportedVariant(format!("{} = {value}", self.key(name)))
    }

    fn inconsistent(&self, name: &str, what: &str) -> ArchitectureError {
        ArchitectureError::Inconsistent(format!("{} {what}", self.key(name)))
    }

    pub(super) fn missing(&self, name: &str) -> ArchitectureError {
        ArchitectureError::Missing(self.key(name))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ArchitectureError> {
        Ok(self.header.text(&self.key(name))?)
    }

    /// A number, or the number that is said for every layer.
    fn unsigned(&self, name: &str) -> Result<Option<u64>, ArchitectureError> {
        let key = self.key(name);
        if let Some(Value::Array(Array::Integers(each))) = self.header.value(&key) {
            let first = each.first().copied().unwrap_or_default();
            if each.iter().any(|other| *other != first) {
                return Err(self.variant(name, "different numbers for different layers"));
            }
            return match first.try_into() {
                Ok(first) => Ok(Some(first)),
                Err(_) => Err(self.inconsistent(name, "is negative")),
            };
        }
        Ok(self.header.unsigned(&key)?)
    }

    /// A size of at most `max`, if it is said; zero is no size.
    pub(super) fn size(&self, name: &str, max: u64) -> Result<Option<usize>, ArchitectureError> {
        match self.unsigned(name)? {
            Some(0) => Err(self.inconsistent(name, "is zero")),
            Some(found) if found > max => Err(self.inconsistent(name, "is too large")),
            found => Ok(found.map(|found| found as usize)),
        }
    }

    /// A size of at most `max`; zero says that there is no such thing.
    pub(super) fn size_unless_zero(
        &self,
        name: &str,
        max: u64,
    ) -> Result<Option<usize>, ArchitectureError> {
        match self.unsigned(name)? {
            Some(0) => Ok(None),
            _ => self.size(name, max),
        }
    }

    /// A size that must be said.
    pub(super) fn required(&self, name: &str, max: u64) -> Result<usize, ArchitectureError> {
        self.size(name, max)?.ok_or_else(|| self.missing(name))
    }

    /// A number that is finite and positive, if it is said.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>, ArchitectureError> {
        match self.positive_unless_zero(name)? {
            None if self.header.value(&self.key(name)).is_some() => {
                Err(self.inconsistent(name, "is zero"))
            }
            found => Ok(found),
        }
    }

    /// A number that is finite and positive; zero says that there is no such thing.
    pub(super) fn positive_unless_zero(
        &self,
        name: &str,
    ) -> Result<Option<f32>, ArchitectureError> {
        match self
            .header
            .float(&self.key(name))?
            .map(|found| found as f32)
        {
            Some(0.0) | None => Ok(None),
            Some(found) if found.is_finite() && found > 0.0 => Ok(Some(found)),
            Some(_) => Err(self.inconsistent(name, "is not a positive number")),
        }
    }

    pub(super) fn context(&self) -> Result<usize, ArchitectureError> {
        self.required("context_length", CONTEXT_MAX)
    }

    /// Columns of a head.
    pub(super) fn head_width(&self) -> Result<usize, ArchitectureError> {
        let width = self.required("embedding_length", WIDTH_MAX)?;
        let heads = self.required("attention.head_count", WIDTH_MAX)?;
        let said = self.size("attention.key_length", WIDTH_MAX)?;
        let found = said.unwrap_or(width / heads);
        if found == 0 {
            return Err(self.inconsistent("attention.head_count", "leaves no column for a head"));
        }
        let values = self.size("attention.value_length", WIDTH_MAX)?;
        if values.is_some_and(|values| values != found) {
            return Err(self.inconsistent("attention.value_length", "is not that of the keys"));
        }
        Ok(found)
    }

    /// A dense feed-forward part.
    pub(super) fn feed_forward(&self) -> Result<FeedForwardConfig, ArchitectureError> {
        Ok(FeedForwardConfig {
            width: self.required("feed_forward_length", WIDTH_MAX * 8)?,
            activation: Activation::Silu,
            experts: None,
        })
    }

    /// Experts, if there are any: softmax over all of them, and the weights of those used made to add up to one.
    pub(super) fn experts(&self) -> Result<Option<Experts>, ArchitectureError> {
        const SOFTMAX: u64 = 1;
        let Some(count) = self.size_unless_zero("expert_count", EXPERTS_MAX)? else {
            return Ok(None);
        };
        let gating = self.unsigned("expert_gating_func")?;
        if let Some(other) = gating.filter(|gating| ![0, SOFTMAX].contains(gating)) {
            return Err(self.variant("expert_gating_func", &other.to_string()));
        }
        let scale = self.positive_unless_zero("expert_weights_scale")?;
        if let Some(other) = scale.filter(|scale| *scale != 1.0) {
            return Err(self.variant("expert_weights_scale", &other.to_string()));
        }
        let used = self.required("expert_used_count", EXPERTS_MAX)?;
        if used > count {
            return Err(self.inconsistent("expert_used_count", "is more than there are"));
        }
        Ok(Some(Experts {
            count,
            used,
            normalised: true,
        }))
    }

    /// A window in every layer, if the file states one that is shorter than the context.
    pub(super) fn window(&self) -> Result<Option<Window>, ArchitectureError> {
        let context = self.context()?;
        let tokens = self.size_unless_zero("attention.sliding_window", u64::MAX)?;
        let tokens = tokens.filter(|tokens| *tokens < context);
        Ok(tokens.map(|tokens| Window {
            tokens,
            full_every: None,
            rope: None,
        }))
    }

    /// Which layers see everything: `Some(n)`, every n-th; `None`, no layer. `usual` where the file does not say.
    pub(super) fn full_every(&self, usual: usize) -> Result<Option<usize>, ArchitectureError> {
        const NAME: &str = "attention.sliding_window_pattern";
        let windowed: Vec<bool> = match self.header.value(&self.key(NAME)) {
            Some(Value::Array(Array::Bools(each))) => each.clone(),
            Some(Value::Array(Array::Integers(each))) => each.iter().map(|at| *at != 0).collect(),
            Some(_) => {
                let every = self.size_unless_zero(NAME, LAYERS_MAX)?;
                return Ok(every);
            }
            None => return Ok(Some(usual)),
        };
        let Some(first) = windowed.iter().position(|windowed| !windowed) else {
            return Ok(None);
        };
        let every = first + 1;
        let regular =
            |(layer, windowed): (usize, &bool)| *windowed != (layer + 1).is_multiple_of(every);
        match windowed.iter().enumerate().all(regular) {
            true => Ok(Some(every)),
            false => Err(self.variant(NAME, "windows in irregular layers")),
        }
    }

    /// What all families say in the same words.
    pub(super) fn config(
        &self,
        rope: RopeConfig,
        feed_forward: FeedForwardConfig,
    ) -> Result<DecoderConfig, ArchitectureError> {
        const EMBEDDING: &str = "token_embd.weight";
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        let embedding = self.header.tensor_index(EMBEDDING);
        let embedding = embedding.and_then(|index| self.header.tensors().get(index));
        let embedding = embedding.ok_or(ArchitectureError::Missing(EMBEDDING.to_owned()))?;
        let heads = self.required("attention.head_count", WIDTH_MAX)?;
        let epsilon = self.positive(EPSILON)?;
        let epsilon = epsilon.ok_or_else(|| self.missing(EPSILON))?;
        if epsilon >= 1.0 {
            return Err(self.inconsistent(EPSILON, "is not between 0 and 1"));
        }
        let head_width = self.head_width()?;
        let key_value_heads = self.size("attention.head_count_kv", WIDTH_MAX)?;
        Ok(DecoderConfig {
            layers: self.required("block_count", LAYERS_MAX)?,
            width: self.required("embedding_length", WIDTH_MAX)?,
            heads,
            key_value_heads: key_value_heads.unwrap_or(heads),
            head_width,
            vocabulary: embedding.shape().first().copied().unwrap_or_default(),
            context: self.context()?,
            norm_epsilon: epsilon,
            embedding_scale: 1.0,
            score_scale: 1.0 / (head_width as f32).sqrt(),
            score_cap: None,
            logit_cap: None,
            query_growth: None,
            rope,
            window: None,
            feed_forward,
            parts: Parts {
                biases: self.has_tensor("blk.0.attn_q.bias"),
                fused_attention: self.has_tensor("blk.0.attn_qkv.weight"),
                ..Parts::default()
            },
        })
    }
}
