//! How tokens are drawn, as requests say it: OpenAI's parameters, and those beside them that other servers have under the
//! same names. Each is checked here, so that the error names it.

use casemate_models::engine::sampler::dry::{
    DRY_BREAKER_LEN_MAX, DRY_BREAKERS_MAX, DRY_WINDOW_MAX,
};
use casemate_models::engine::{DryParams, SamplingParams};
use serde_json::Value;

use super::ApiError;
use super::fields::{Fields, invalid};

/// The most tokens that a request may favour or disfavour: OpenAI's number.
pub const BIASES_MAX: usize = 300;

/// Takes the parameters out of a request; what is absent changes nothing.
///
/// # Errors
/// [`ApiError::Invalid`] with the name and the range.
pub fn sampling(fields: &mut Fields) -> Result<SamplingParams, ApiError> {
    let plain = SamplingParams::default();
    let mut number = |name: &str, low: f64, high: f64, absent: f64| {
        let given = fields.number(name, low, high)?;
        Ok::<f64, ApiError>(given.unwrap_or(absent))
    };
    // The sampler wants positive parts of the probability; the smallest keeps exactly one token.
    let part = |part: f64| part.max(f64::MIN_POSITIVE);
    let params = SamplingParams {
        temperature: number("temperature", 0.0, 2.0, plain.temperature)?,
        top_p: part(number("top_p", 0.0, 1.0, plain.top_p)?),
        typical_p: part(number("typical_p", 0.0, 1.0, plain.typical_p)?),
        min_p: number("min_p", 0.0, 1.0, plain.min_p)?,
        repetition_penalty: number("repetition_penalty", 0.01, 100.0, plain.repetition_penalty)?,
        frequency_penalty: number("frequency_penalty", -2.0, 2.0, plain.frequency_penalty)?,
        presence_penalty: number("presence_penalty", -2.0, 2.0, plain.presence_penalty)?,
        ..plain
    };
    let top_k = fields.count("top_k", 0)?;
    Ok(SamplingParams {
        top_k: top_k.map_or(0, |top_k| usize::try_from(top_k).unwrap_or(usize::MAX)),
        dry: dry(fields)?,
        logit_bias: logit_bias(fields)?,
        ..params
    })
}

/// Token ids to what is added to their logits, as OpenAI writes it. An addition of nothing asks for nothing.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f64)>, ApiError> {
    const NAME: &str = "logit_bias";
    let wrong = || {
        let expected =
            format!("an object of at most {BIASES_MAX} token ids with numbers from -100 to 100");
        invalid(NAME, &expected)
    };
    let given = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(given)) if given.len() <= BIASES_MAX => given,
        Some(_) => return Err(wrong()),
    };
    let mut biases = Vec::with_capacity(given.len());
    for (id, bias) in given {
        let bias = bias.as_f64().filter(|bias| bias.abs() <= 100.0);
        // One way to write an id: `7` and `07` would be the same token twice.
        let id = id
            .parse::<u32>()
            .ok()
            .filter(|number| number.to_string() == id);
        match (id, bias) {
            (Some(id), Some(bias)) => biases.push((id, bias)),
            _ => return Err(wrong()),
        }
    }
    biases.retain(|(_, bias)| *bias != 0.0);
    Ok(biases)
}

fn dry(fields: &mut Fields) -> Result<DryParams, ApiError> {
    let plain = DryParams::default();
    let longest = DRY_WINDOW_MAX as u64;
    let count = |given: Option<u64>, absent: usize| given.map_or(absent, |given| given as usize);
    Ok(DryParams {
        multiplier: fields
            .number("dry_multiplier", 0.0, 100.0)?
            .unwrap_or(plain.multiplier),
        base: fields.number("dry_base", 1.0, 100.0)?.unwrap_or(plain.base),
        allowed_length: count(
            fields.whole("dry_allowed_length", 1, longest)?,
            plain.allowed_length,
        ),
        window: count(
            fields.whole("dry_penalty_last_n", 0, longest)?,
            plain.window,
        ),
        breakers: breakers(fields)?.unwrap_or(plain.breakers),
    })
}

fn breakers(fields: &mut Fields) -> Result<Option<Vec<String>>, ApiError> {
    const NAME: &str = "dry_sequence_breakers";
    let wrong = || {
        let expected = format!(
            "a list of at most {DRY_BREAKERS_MAX} strings, each of 1 to {DRY_BREAKER_LEN_MAX} bytes"
        );
        invalid(NAME, &expected)
    };
    let Some(value) = fields.take(NAME) else {
        return Ok(None);
    };
    let Value::Array(items) = value else {
        return Err(wrong());
    };
    let texts = items.into_iter().map(|item| match item {
        Value::String(text) if (1..=DRY_BREAKER_LEN_MAX).contains(&text.len()) => Ok(text),
        _ => Err(wrong()),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    if texts.len() > DRY_BREAKERS_MAX {
        return Err(wrong());
    }
    Ok(Some(texts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<SamplingParams, ApiError> {
        let mut fields = Fields::parse(body.to_string().as_bytes())?;
        let params = sampling(&mut fields)?;
        fields.finish()?;
        Ok(params)
    }

    #[test]
    fn what_is_absent_changes_nothing_and_what_is_there_is_taken() {
        assert_eq!(read(&json!({})), Ok(SamplingParams::default()));
        let body = json!({"temperature": 0.5, "top_p": 0, "top_k": 40, "min_p": 0.05, "typical_p": 0.9,
            "repetition_penalty": 1.1, "frequency_penalty": -0.5, "presence_penalty": 2, "dry_multiplier": 0.8,
            "dry_base": 2, "dry_allowed_length": 3, "dry_penalty_last_n": 0, "dry_sequence_breakers": ["\n", "User:"],
            "logit_bias": {"7": -100, "0": 1.5, "12": 0}});
        let expected = SamplingParams {
            temperature: 0.5,
            top_p: f64::MIN_POSITIVE,
            top_k: 40,
            min_p: 0.05,
            typical_p: 0.9,
            repetition_penalty: 1.1,
            frequency_penalty: -0.5,
            presence_penalty: 2.0,
            dry: DryParams {
                multiplier: 0.8,
                base: 2.0,
                allowed_length: 3,
                breakers: vec!["\n".into(), "User:".into()],
                window: 0,
            },
            logit_bias: vec![(0, 1.5), (7, -100.0)],
            ..SamplingParams::default()
        };
        let mut read = read(&body);
        if let Ok(params) = &mut read {
            params.logit_bias.sort_by_key(|(id, _)| *id);
        }
        assert_eq!(read, Ok(expected.clone()));
        assert_eq!(
            expected.check(),
            Ok(()),
            "the sampler takes what the API takes"
        );
    }

    #[test]
    fn every_range_is_held_and_named() {
        let long = "x".repeat(DRY_BREAKER_LEN_MAX + 1);
        let many: serde_json::Map<_, _> = (0..=BIASES_MAX)
            .map(|id| (id.to_string(), json!(1)))
            .collect();
        for (name, value) in [
            ("temperature", json!(2.1)),
            ("top_p", json!(1.1)),
            ("top_k", json!(-1)),
            ("top_k", json!(1.5)),
            ("min_p", json!(-0.1)),
            ("typical_p", json!("0.5")),
            ("typical_p", json!(1.01)),
            ("repetition_penalty", json!(0)),
            ("frequency_penalty", json!(2.5)),
            ("presence_penalty", json!(-3)),
            ("dry_multiplier", json!(-1)),
            ("dry_base", json!(0.9)),
            ("dry_allowed_length", json!(0)),
            ("dry_penalty_last_n", json!(DRY_WINDOW_MAX + 1)),
            ("dry_sequence_breakers", json!("\n")),
            ("dry_sequence_breakers", json!([""])),
            ("dry_sequence_breakers", json!([long])),
            (
                "dry_sequence_breakers",
                json!(vec!["a"; DRY_BREAKERS_MAX + 1]),
            ),
            ("logit_bias", json!([])),
            ("logit_bias", json!({"7": 100.5})),
            ("logit_bias", json!({"7": "1"})),
            ("logit_bias", json!({"07": 1})),
            ("logit_bias", json!({"-1": 1})),
            ("logit_bias", json!({"+1": 1})),
            ("logit_bias", json!({"4294967296": 1})),
            ("logit_bias", Value::Object(many)),
        ] {
            match read(&json!({ name: value })) {
                Err(ApiError::Invalid { param, .. }) => assert_eq!(param, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
