//! Whatever a sender changes: nothing panics, and nothing passes but what was signed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod common;

use std::fs;
use std::sync::LazyLock;

use casemate_attestation::tdx::{
    Expected, TdxCollateral, TdxMeasurement, TdxPolicy, TdxQuote, TdxRejection, TdxRoot,
    TdxVerdict, verify_tdx_quote,
};
use casemate_attestation::{ChipId, Measurement, UnixTime};
use proptest::prelude::*;
use serde_json::Value;

use common::tdx::{NOW, Platform, REPORT_DATA, policy};

/// Evidence that is accepted, with whom it is accepted by.
struct Accepted {
    quote: Vec<u8>,
    collateral: Vec<u8>,
    report_data: [u8; 64],
    policy: TdxPolicy,
    root: TdxRoot,
    now: UnixTime,
}

impl Accepted {
    fn judge(&self, quote: &[u8], collateral: &[u8]) -> Result<TdxVerdict, TdxRejection> {
        let collateral = TdxCollateral::from_json(collateral)?;
        verify_tdx_quote(
            quote,
            &collateral,
            &self.report_data,
            &self.policy,
            &self.root,
            self.now,
        )
    }
}

/// The platform that is not one.
static OURS: LazyLock<Accepted> = LazyLock::new(|| {
    let platform = Platform::new();
    Accepted {
        quote: platform.signed_quote(),
        collateral: platform.collateral_json().to_string().into_bytes(),
        report_data: REPORT_DATA,
        policy: policy(),
        root: platform.trusted(),
        now: NOW,
    }
});

/// A genuine quote under Intel's root, where the shared evidence is there.
static GENUINE: LazyLock<Option<Accepted>> = LazyLock::new(|| {
    let folder = common::shared("tdx")?.join("v4-phala");
    let quote = fs::read(folder.join("quote.bin")).unwrap();
    let collateral = fs::read(folder.join("collateral-2025-06-19.json")).unwrap();
    let read = TdxQuote::parse(&quote).unwrap();
    let policy = |platform| {
        let measurement = TdxMeasurement {
            mrtd: read.mrtd(),
            rtmrs: read
                .rtmrs()
                .map(|found: Measurement| Expected::OneOf(vec![found])),
        };
        TdxPolicy::new(vec![measurement], vec![platform], 17).unwrap()
    };
    let mut accepted = Accepted {
        report_data: read.report_data(),
        policy: policy(ChipId::from_bytes([0xff; 64])),
        root: TdxRoot::intel(),
        now: UnixTime::from_secs(1_751_624_191),
        quote,
        collateral,
    };
    let judged = accepted.judge(&accepted.quote, &accepted.collateral);
    let Err(TdxRejection::PlatformUnknown(id)) = judged else {
        panic!("{judged:?}");
    };
    accepted.policy = policy(id);
    assert!(
        accepted
            .judge(&accepted.quote, &accepted.collateral)
            .is_ok()
    );
    Some(accepted)
});

fn every() -> impl Iterator<Item = &'static Accepted> {
    [Some(&*OURS), GENUINE.as_ref()].into_iter().flatten()
}

/// One edit of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Append(Vec<u8>),
    Copy(prop::sample::Index, prop::sample::Index, u8),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Insert(at, value) => bytes.insert(at.index(bytes.len()), *value),
            Self::Append(more) => bytes.extend(more),
            Self::Copy(from, to, length) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let length = usize::from(*length).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (index(), 1_u8..).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        1 => index().prop_map(Edit::Cut),
        1 => (index(), any::<u8>()).prop_map(|(at, value)| Edit::Insert(at, value)),
        1 => prop::collection::vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 1..600)
            .prop_map(Edit::Append),
        2 => (index(), index(), 1_u8..).prop_map(|(a, b, length)| Edit::Copy(a, b, length)),
    ]
}

/// What is left of a quote when the root that nobody reads is left out, with whatever stands around it.
fn counted(quote: &[u8]) -> Option<Vec<u8>> {
    let read = TdxQuote::parse(quote).ok()?;
    let bytes = read.bytes();
    let third = bytes
        .windows(b"-----BEGIN".len())
        .enumerate()
        .filter(|(_, window)| *window == b"-----BEGIN")
        .nth(2)?
        .0;
    Some(bytes[..third].to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_quote_passes_only_where_no_rule_reads(edits in prop::collection::vec(edit(), 1..4)) {
        for accepted in every() {
            let mut quote = accepted.quote.clone();
            edits.iter().for_each(|edit| edit.apply(&mut quote));
            if let Ok(verdict) = accepted.judge(&quote, &accepted.collateral) {
                // Zeros behind it, and the text of the root that the chain brings along.
                let genuine = TdxQuote::parse(&accepted.quote).unwrap();
                prop_assert_eq!(verdict.quote().signed_bytes(), genuine.signed_bytes());
                prop_assert!(verdict.quote().bytes() == genuine.bytes() || same_chain(&quote, &accepted.quote));
            }
        }
    }

    #[test]
    fn edited_collateral_passes_only_where_no_rule_reads(
        field in any::<prop::sample::Index>(),
        edits in prop::collection::vec(edit(), 1..3),
    ) {
        for accepted in every() {
            let mut document: Value = serde_json::from_slice(&accepted.collateral).unwrap();
            let names: Vec<String> = document.as_object().unwrap().keys().cloned().collect();
            let name = field.get(&names).as_str();
            let mut text = document[name].as_str().unwrap().as_bytes().to_vec();
            let whole = text.clone();
            edits.iter().for_each(|edit| edit.apply(&mut text));
            let changed = text != whole;
            document[name] = String::from_utf8_lossy(&text).into_owned().into();
            let judged = accepted.judge(&accepted.quote, document.to_string().as_bytes());
            let chain = name.ends_with("_chain");
            prop_assert!(judged.is_err() || !changed || chain, "{name}");
        }
    }

    #[test]
    fn edited_bytes_of_collateral_never_panic(edits in prop::collection::vec(edit(), 1..4)) {
        for accepted in every() {
            let mut collateral = accepted.collateral.clone();
            edits.iter().for_each(|edit| edit.apply(&mut collateral));
            let _ = accepted.judge(&accepted.quote, &collateral);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(quote) = TdxQuote::parse(&bytes) {
            prop_assert!(bytes.starts_with(quote.bytes()));
        }
        let _ = TdxCollateral::from_json(&bytes);
    }

    #[test]
    fn a_quote_is_accepted_at_no_other_time(offset in 1_u64..200 * 86_400, later: bool) {
        let accepted = &*OURS;
        let now = if later { accepted.now.plus(offset) } else { accepted.now.minus(offset) };
        let collateral = TdxCollateral::from_json(&accepted.collateral).unwrap();
        let judged = verify_tdx_quote(
            &accepted.quote, &collateral, &accepted.report_data, &accepted.policy, &accepted.root, now,
        );
        let day = 86_400;
        let inside = if later { offset < 21 * day } else { offset <= 9 * day };
        prop_assert_eq!(judged.is_ok(), inside);
    }
}

/// Whether two quotes are the same up to the lengths and the text of the third certificate, and around the other two.
fn same_chain(one: &[u8], other: &[u8]) -> bool {
    let letters = |quote: &[u8]| {
        let counted = counted(quote)?;
        let begin = counted
            .windows(10)
            .position(|window| window == b"-----BEGIN")?;
        let text: Vec<u8> = counted[begin..]
            .iter()
            .copied()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        Some(text)
    };
    letters(one).is_some() && letters(one) == letters(other)
}
