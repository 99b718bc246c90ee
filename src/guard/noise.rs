//! A caller's seed is not the seed of the draws: those come from it, the caller, and everything else that was chosen, through a
//! pseudorandom function under a secret of the enclave. The same request gives the same text; a request that differs in
//! anything gets fresh noise, so that draws cannot be compared between two of them (attack S18).

use casemate_attestation::Sha256Digest;
use casemate_models::engine::{DryParams, SamplingParams, TemperatureOrder};
use casemate_models::grammar::Shape;
use ring::digest::{Context, SHA256};
use ring::hmac;

use crate::policy::Principal;

const LABEL: &[u8] = b"casemate/noise/v1";
const REQUEST_LABEL: &[u8] = b"casemate/noise-request/v1";

/// Everything of a request that decides its text. Whether it is streamed is not among it: a stream reads like the whole.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// Which path was asked, as a word.
    pub endpoint: &'static str,
    /// Digest of the model.
    pub model: Sha256Digest,
    /// How tokens are drawn.
    pub sampling: &'a SamplingParams,
    /// What the answer must be.
    pub shape: Option<&'a Shape>,
    /// Texts that end it.
    pub stop: &'a [String],
    /// The most tokens that were asked for.
    pub tokens_max: Option<u64>,
    /// Of how many tokens probabilities were asked for.
    pub logprobs: Option<usize>,
    /// The prompt's tokens.
    pub prompt: &'a [u32],
}

/// The secret of the enclave.
pub struct Noise(hmac::Key);

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noise(..)")
    }
}

impl Noise {
    /// Under this secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The seed of the draws of a request to which `principal` gave `seed`.
    #[must_use]
    pub fn seed(&self, principal: &Principal, seed: u64, chosen: &Chosen<'_>) -> u64 {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        let name = principal.as_str().as_bytes();
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name);
        context.update(&seed.to_be_bytes());
        context.update(chosen.digest().as_bytes());
        let tag = context.sign();
        let first = tag.as_ref().first_chunk().copied();
        u64::from_be_bytes(first.unwrap_or_default())
    }
}

impl Chosen<'_> {
    /// Digest of all of it; every part has its length or its number before it.
    fn digest(&self) -> Sha256Digest {
        let mut parts = Parts(Context::new(&SHA256));
        parts.bytes(REQUEST_LABEL);
        parts.bytes(self.endpoint.as_bytes());
        parts.bytes(self.model.as_bytes());
        parts.sampling(self.sampling);
        match self.shape {
            None => parts.number(0),
            Some(Shape::Object) => parts.number(1),
            Some(Shape::Schema(schema)) => {
                parts.number(2);
                parts.bytes(schema.to_string().as_bytes());
            }
        }
        parts.texts(self.stop);
        parts.option(self.tokens_max);
        parts.option(self.logprobs.map(|count| count as u64));
        parts.number(self.prompt.len() as u64);
        // One by one they would take twice as long.
        let mut bytes = [[0; 4]; 256];
        for tokens in self.prompt.chunks(bytes.len()) {
            for (to, token) in bytes.iter_mut().zip(tokens) {
                *to = token.to_be_bytes();
            }
            let bytes = bytes.get(..tokens.len()).unwrap_or_default();
            parts.0.update(bytes.as_flattened());
        }
        let digest = parts.0.finish();
        let bytes = digest.as_ref().first_chunk().copied();
        Sha256Digest::from_bytes(bytes.unwrap_or_default())
    }
}

struct Parts(Context);

impl Parts {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn texts(&mut self, texts: &[String]) {
        self.number(texts.len() as u64);
        for text in texts {
            self.bytes(text.as_bytes());
        }
    }

    fn option(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or_default());
    }

    fn real(&mut self, number: f64) {
        // Two zeros draw alike, and nothing else that differs does.
        self.number((number + 0.0).to_bits());
    }

    fn sampling(&mut self, sampling: &SamplingParams) {
        // Whoever adds a parameter adds it here: one that were left out could be changed under the same noise.
        let SamplingParams {
            temperature,
            temperature_order,
            top_k,
            top_p,
            typical_p,
            min_p,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            penalty_window,
            dry,
            logit_bias,
        } = sampling;
        let DryParams {
            multiplier,
            base,
            allowed_length,
            breakers,
            window,
        } = dry;
        for number in [
            temperature,
            top_p,
            typical_p,
            min_p,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            multiplier,
            base,
        ] {
            self.real(*number);
        }
        let first = *temperature_order == TemperatureOrder::First;
        for number in [
            usize::from(first),
            *top_k,
            *penalty_window,
            *allowed_length,
            *window,
        ] {
            self.number(number as u64);
        }
        self.texts(breakers);
        self.number(logit_bias.len() as u64);
        for (id, bias) in logit_bias {
            self.number(u64::from(*id));
            self.real(*bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_models::engine::sampler::{self, Draws, Past};
    use serde_json::json;

    use super::*;

    fn principal(name: &str) -> Principal {
        format!("spiffe://acme/team/red/{name}").parse().unwrap()
    }

    fn noise() -> Noise {
        Noise::new(&[7; 32])
    }

    fn chosen<'a>(sampling: &'a SamplingParams, prompt: &'a [u32]) -> Chosen<'a> {
        Chosen {
            endpoint: "chat",
            model: Sha256Digest::of(b"model"),
            sampling,
            shape: None,
            stop: &[],
            tokens_max: Some(10),
            logprobs: None,
            prompt,
        }
    }

    #[test]
    fn the_same_request_has_the_same_seed_and_every_change_another() {
        let plain = SamplingParams::default();
        let base = chosen(&plain, &[1, 2, 3]);
        let seed = |chosen: &Chosen<'_>| noise().seed(&principal("ada"), 7, chosen);
        let first = seed(&base);
        assert_eq!(first, seed(&base));
        let changed = |change: fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            noise().seed(&principal("ada"), 7, &chosen(&params, &[1, 2, 3]))
        };
        let schema = Shape::Schema(json!({"type": "object"}));
        let stops = ["a".to_owned()];
        let mut seeds = vec![
            first,
            noise().seed(&principal("bob"), 7, &base),
            noise().seed(&principal("ada"), 8, &base),
            Noise::new(&[8; 32]).seed(&principal("ada"), 7, &base),
            seed(&chosen(&plain, &[1, 2, 4])),
            seed(&chosen(&plain, &[1, 2])),
            seed(&Chosen {
                endpoint: "completion",
                ..base
            }),
            seed(&Chosen {
                model: Sha256Digest::of(b"other"),
                ..base
            }),
            seed(&Chosen {
                shape: Some(&Shape::Object),
                ..base
            }),
            seed(&Chosen {
                shape: Some(&schema),
                ..base
            }),
            seed(&Chosen {
                stop: &stops,
                ..base
            }),
            seed(&Chosen {
                tokens_max: None,
                ..base
            }),
            seed(&Chosen {
                tokens_max: Some(11),
                ..base
            }),
            seed(&Chosen {
                logprobs: Some(0),
                ..base
            }),
            seed(&Chosen {
                logprobs: Some(1),
                ..base
            }),
            changed(|params| params.temperature = 0.9),
            changed(|params| params.temperature_order = TemperatureOrder::Last),
            changed(|params| params.top_k = 1),
            changed(|params| params.top_p = 0.9),
            changed(|params| params.typical_p = 0.9),
            changed(|params| params.min_p = 0.1),
            changed(|params| params.repetition_penalty = 1.1),
            changed(|params| params.frequency_penalty = 0.1),
            changed(|params| params.presence_penalty = 0.1),
            changed(|params| params.penalty_window = 3),
            changed(|params| params.dry.multiplier = 0.1),
            changed(|params| params.dry.base = 2.0),
            changed(|params| params.dry.allowed_length = 3),
            changed(|params| params.dry.window = 3),
            changed(|params| params.dry.breakers = vec!["x".into()]),
            changed(|params| params.logit_bias = vec![(7, 3.0)]),
            changed(|params| params.logit_bias = vec![(7, 2.0)]),
            changed(|params| params.logit_bias = vec![(8, 3.0)]),
        ];
        let count = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), count);
    }

    #[test]
    fn every_token_of_a_long_prompt_is_in_the_seed() {
        let plain = SamplingParams::default();
        let seed = |prompt: &[u32]| noise().seed(&principal("ada"), 7, &chosen(&plain, prompt));
        for len in [255, 256, 257, 700] {
            let prompt: Vec<u32> = (0..len).collect();
            let first = seed(&prompt);
            assert_eq!(first, seed(&prompt));
            assert_ne!(first, seed(&prompt[1..]));
            for at in [0, 1, 254, 255, 256, 511, 512, 699] {
                let mut changed = prompt.clone();
                if let Some(token) = changed.get_mut(at) {
                    *token ^= 1 << 20;
                    assert_ne!(first, seed(&changed), "{len}, {at}");
                }
            }
        }
    }

    /// GUARD section 8, G3: with grammars in place of biases, what one leaves says no more about what another one leaves than
    /// two independent draws do: the noise of one question is not that of the next.
    #[test]
    fn g3_agreement_across_grammars_of_one_seed_equals_chance() {
        const PAIRS: u32 = 1000;
        let logits: Vec<f32> = (0..64).map(|at| -(at as f32) / 9.0).collect();
        let plain = SamplingParams::default();
        // Each grammar leaves two tokens; both have the first one.
        let of = |other: usize| {
            let kept = |at| at == 10 || at == other;
            let masked = logits.iter().enumerate();
            let masked: Vec<f32> = masked
                .map(|(at, logit)| if kept(at) { *logit } else { f32::NEG_INFINITY })
                .collect();
            (Shape::Schema(json!({"enum": [10, other]})), masked)
        };
        let [one, two] = [of(14), of(15)];
        let [p, q] = [&one, &two].map(|(_, masked)| {
            let exact = sampler::Distribution::new(masked, &plain, Past::default());
            let tokens = exact.unwrap().tokens;
            tokens.iter().find(|(id, _)| *id == 10).unwrap().1
        });
        let chance = p * q + (1.0 - p) * (1.0 - q);
        let (mut agreed, mut frozen) = (0, 0);
        for seed in 0..u64::from(PAIRS) {
            let first = |(shape, masked): &(Shape, Vec<f32>), frozen: bool| {
                let asked = Chosen {
                    shape: Some(shape),
                    ..chosen(&plain, &[1, 2, 3])
                };
                let own = noise().seed(&principal("ada"), seed, &asked);
                let point = Draws::new(if frozen { seed } else { own }).next_point();
                sampler::draw(masked, &plain, Past::default(), point).unwrap() == 10
            };
            agreed += u32::from(first(&one, false) == first(&two, false));
            // What the caller's own seed would give: the test can see.
            frozen += u32::from(first(&one, true) == first(&two, true));
        }
        let deviation = (chance * (1.0 - chance) * f64::from(PAIRS)).sqrt();
        let off = |count: u32| (f64::from(count) - chance * f64::from(PAIRS)).abs() / deviation;
        assert!(off(agreed) < 2.58, "p > 0.01: {} deviations", off(agreed));
        assert!(off(frozen) > 10.0, "{} deviations", off(frozen));
    }

    /// GUARD section 8, G3: with a seed, answers to changed options agree no more often than two independent draws do.
    #[test]
    fn s18_agreement_across_changed_options_equals_chance() {
        const PAIRS: u32 = 1000;
        let logits: Vec<f32> = (0..64).map(|at| -(at as f32) / 9.0).collect();
        let params = |bias: f64| SamplingParams {
            logit_bias: vec![(60, bias)],
            ..SamplingParams::default()
        };
        let draw = |seed: u64, params: &SamplingParams| {
            let point = Draws::new(seed).next_point();
            sampler::draw(&logits, params, Past::default(), point).unwrap()
        };
        let (three, two) = (params(3.0), params(2.0));
        let exact = |params: &SamplingParams| {
            let drawn = sampler::Distribution::new(&logits, params, Past::default());
            let mut by_id = drawn.unwrap().tokens;
            by_id.sort_by_key(|(id, _)| *id);
            by_id
        };
        let pairs = exact(&three).into_iter().zip(exact(&two));
        let chance: f64 = pairs.map(|((_, a), (_, b))| a * b).sum();
        let (mut agreed, mut frozen) = (0, 0);
        for seed in 0..u64::from(PAIRS) {
            let own = |params: &SamplingParams| {
                noise().seed(&principal("ada"), seed, &chosen(params, &[1, 2, 3]))
            };
            agreed += u32::from(draw(own(&three), &three) == draw(own(&two), &two));
            // What the caller's own seed would give: the test can see.
            frozen += u32::from(draw(seed, &three) == draw(seed, &two));
        }
        let deviation = (chance * (1.0 - chance) * f64::from(PAIRS)).sqrt();
        let off = |count: u32| (f64::from(count) - chance * f64::from(PAIRS)).abs() / deviation;
        assert!(off(agreed) < 2.58, "p > 0.01: {} deviations", off(agreed));
        assert!(off(frozen) > 10.0, "{} deviations", off(frozen));
    }
}
