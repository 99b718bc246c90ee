//! `casemate collateral fetch` against a server that speaks the vendors' formats with their own documents: what is right is kept,
//! and everything else leaves the folder as it was.

#![cfg(feature = "test-chip")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

#[path = "../../attestation/tests/support/ocsp.rs"]
mod ocsp;
#[path = "../../attestation/tests/support/spdm.rs"]
mod spdm;

mod network;
mod place;
mod server;

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate::vendors::{FetchError, HttpError, Kept, Refusal};
use casemate_attestation::collateral::{Packer, Wanted};
use casemate_attestation::tdx::PckCa;
use casemate_attestation::{Product, UnixTime};
use serde_json::json;

use place::{AMD_CHAIN, AMD_LIST, NEWER, OLDER, Place, ROOT_LIST, TCB, shared};
use server::{ok, reply};
use spdm::NOW;

/// The result of the one document that was asked for, or of the last.
macro_rules! refused {
    ($place:expr, $pattern:pat) => {{
        let all = $place.fetch();
        let error = all.last().unwrap().result.as_ref().unwrap_err();
        assert!(matches!(error, $pattern), "{error:?}");
    }};
}

#[test]
fn from_configuration_to_a_bundle_and_again() {
    let Some(shared) = shared() else { return };
    let place = Place::whole(&shared);
    let all = place.fetch();
    let kept: Vec<_> = all
        .iter()
        .map(|it| (it.item.clone(), it.result.as_ref().ok()))
        .collect();
    assert!(
        kept.iter().all(|(_, kept)| *kept == Some(&Kept::New)),
        "{all:?}"
    );
    // List, authority, chip; one family; two answers and the chain.
    assert_eq!(all.len(), 7);

    let mut packer = Packer::new();
    for name in place.files() {
        packer
            .add(&fs::read(place.folder().join(name)).unwrap())
            .unwrap();
    }
    let bundle = packer.finish().unwrap();
    bundle.must_be_right(&place.roots.collateral, NOW).unwrap();
    let counts = (
        bundle.amd[0].endorsements.len(),
        bundle.intel.tcb.len(),
        bundle.nvidia.answers.len(),
    );
    assert_eq!(counts, (1, 1, 2));

    let before = place.bytes();
    let all = place.fetch();
    assert!(
        all.iter()
            .all(|it| matches!(it.result, Ok(Kept::Unchanged))),
        "{all:?}"
    );
    assert_eq!(place.bytes(), before);
}

#[test]
fn what_would_be_asked_is_what_is_asked() {
    let Some(shared) = shared() else { return };
    let place = Place::whole(&shared);
    let planned = casemate::vendors::plan(&place.config.services, &place.owned(), &place.shelf());
    let planned: Vec<_> = planned.unwrap().into_iter().map(|it| it.url).collect();
    assert!(place.server.asked().is_empty());
    place.fetch();
    let asked = place.server.asked();
    assert_eq!(asked.len(), planned.len());
    let gets = asked.iter().filter_map(|it| it.strip_prefix("GET "));
    for target in gets {
        let url = format!("http://{}{target}", place.server.address);
        assert!(planned.contains(&url), "{url}");
    }
}

#[test]
fn a_list_that_is_stale_or_anothers_or_rubbish_is_not_kept() {
    let Some(shared) = shared() else { return };
    let file = |name: &str| fs::read(shared.join(name)).unwrap();
    let mut place = Place::of(Wanted::Provider {
        product: Product::Milan,
    });
    place
        .server
        .put(AMD_LIST, &[ok(&file("snp/roots/milan_crl_2025-05-06.der"))]);
    place.now = UnixTime::from_secs(1_800_000_000);
    let all = place.fetch();
    let Err(FetchError::Judged(error)) = &all[0].result else {
        panic!("{all:?}")
    };
    assert!(error.is_out_of_date());
    place.now = NOW;
    for (body, word) in [
        (file("snp/roots/genoa_crl_2024-10-23.der"), "stale"),
        (file("snp/roots/milan_ask.der"), "no revocation list"),
        (b"rubbish".to_vec(), "not known"),
        (Vec::new(), "not known"),
    ] {
        place.server.put(AMD_LIST, &[ok(&body)]);
        let all = place.fetch();
        let error = all[0].result.as_ref().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(place.files().is_empty());
}

#[test]
fn a_list_of_another_product_is_not_kept_though_it_is_right() {
    let Some(shared) = shared() else { return };
    let milan = fs::read(shared.join("snp/roots/milan_crl_2025-05-06.der")).unwrap();
    let place = Place::of(Wanted::Provider {
        product: Product::Genoa,
    });
    place.server.put("GET /vcek/v1/Genoa/crl", &[ok(&milan)]);
    let all = place.fetch();
    assert!(
        matches!(all[0].result, Err(FetchError::Other("revocation list"))),
        "{all:?}"
    );
    assert!(place.files().is_empty());
}

#[test]
fn the_certificate_of_another_chip_or_firmware_is_not_kept() {
    let Some(shared) = shared() else { return };
    let file = |name: &str| fs::read(shared.join(name)).unwrap();
    let place = Place::milan(&shared, "milan-v5-gcp-vmpl0");
    let chip = place.chip_asked();
    place
        .server
        .put(&chip, &[ok(&file("snp/milan-v3-aci/vek.der"))]);
    refused!(place, FetchError::Other("chip"));
    place
        .server
        .put(&chip, &[ok(&file("snp/genoa-v3-aci/vek.der"))]);
    refused!(place, FetchError::Other("product"));
    place
        .server
        .put(&chip, &[ok(&file("snp/roots/milan_ask.der"))]);
    refused!(place, FetchError::Other("kind of document"));
    let mut damaged = file("snp/milan-v5-gcp-vmpl0/vek.der");
    *damaged.last_mut().unwrap() ^= 1;
    place.server.put(&chip, &[ok(&damaged)]);
    refused!(place, FetchError::Judged(_));
    assert_eq!(
        place.files(),
        ["amd-milan-authorities.pem", "amd-milan-crl.der"]
    );

    // The chip's own certificate, asked for with other firmware.
    let Wanted::Chip {
        product,
        chip,
        mut tcb,
    } = place.wanted[0]
    else {
        panic!()
    };
    tcb.microcode -= 1;
    let other = place.with(Wanted::Chip { product, chip, tcb });
    other.server.put(
        &other.chip_asked(),
        &[ok(&file("snp/milan-v5-gcp-vmpl0/vek.der"))],
    );
    refused!(other, FetchError::Other("firmware version"));
}

#[test]
fn a_chain_of_another_product_is_not_kept_and_a_chip_waits_for_its_authority() {
    let Some(shared) = shared() else { return };
    let place = Place::milan(&shared, "milan-v5-gcp-vmpl0");
    let genoa = place::chain(&shared, "genoa");
    place.server.put(AMD_CHAIN, &[ok(&genoa)]);
    let all = place.fetch();
    assert!(
        matches!(all[1].result, Err(FetchError::Other("authority"))),
        "{all:?}"
    );
    assert!(
        matches!(all[2].result, Err(FetchError::Alone(_))),
        "{all:?}"
    );
    assert_eq!(place.files(), ["amd-milan-crl.der"]);
}

#[test]
fn what_is_older_replaces_nothing() {
    let Some(shared) = shared() else { return };
    let mut place = Place::intel(&shared, NEWER);
    // Both sets are in force.
    place.now = UnixTime::from_secs(1_772_000_000);
    assert!(matches!(place.fetch()[0].result, Ok(Kept::New)));
    let before = place.bytes();
    place.serve_intel(&shared, OLDER);
    refused!(place, FetchError::Older(_));
    assert_eq!(place.bytes(), before);

    let mut place = Place::intel(&shared, OLDER);
    place.now = UnixTime::from_secs(1_772_000_000);
    assert!(matches!(place.fetch()[0].result, Ok(Kept::New)));
    place.serve_intel(&shared, NEWER);
    assert!(matches!(place.fetch()[0].result, Ok(Kept::Replaced)));
}

#[test]
fn a_chain_of_another_issuer_and_an_edited_text_are_refused() {
    let Some(shared) = shared() else { return };
    let place = Place::intel(&shared, NEWER);
    let document = place::intel_document(&shared, NEWER);
    let text = |field: &str| document[field].as_str().unwrap().to_owned();
    let body = format!(
        "{{\"tcbInfo\":{},\"signature\":\"{}\"}}",
        text("tcb_info"),
        text("tcb_info_signature")
    );
    // The authority over platforms signed no TCB info.
    let wrong = place::encoded(&text("pck_crl_issuer_chain"));
    place.server.put(
        TCB,
        &[reply(
            200,
            &[("TCB-Info-Issuer-Chain", &wrong)],
            body.as_bytes(),
        )],
    );
    refused!(place, FetchError::Judged(_));
    let right = place::encoded(&text("tcb_info_issuer_chain"));
    for head in ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"] {
        let edited = body.replacen("Number\":18", "Number\":19", 1);
        place
            .server
            .put(TCB, &[reply(200, &[(head, &right)], edited.as_bytes())]);
        refused!(place, FetchError::Judged(_));
    }
    for head in [&[][..], &[("TCB-Info-Issuer-Chain", "%zz")]] {
        place.server.put(TCB, &[reply(200, head, body.as_bytes())]);
        refused!(place, FetchError::Form(_));
    }
    // Lists without their bytes.
    place.serve_intel(&shared, NEWER);
    place.server.put(ROOT_LIST, &[ok(b"")]);
    refused!(place, FetchError::Judged(_) | FetchError::Pack(_));
    assert!(place.files().is_empty());
    // The service's other header, and a mirror's hexadecimal.
    place.serve_intel(&shared, NEWER);
    place
        .server
        .put(ROOT_LIST, &[ok(text("root_ca_crl").as_bytes())]);
    place.server.put(
        TCB,
        &[reply(
            200,
            &[("SGX-TCB-Info-Issuer-Chain", &right)],
            body.as_bytes(),
        )],
    );
    assert!(matches!(place.fetch()[0].result, Ok(Kept::New)));
}

#[test]
fn what_is_out_of_date_is_refused_by_its_name() {
    let Some(shared) = shared() else { return };
    let mut place = Place::intel(&shared, NEWER);
    // The TCB info's time is over, then the root's list is stale as well.
    for (now, name) in [
        (1_775_000_000, "TCB info expired"),
        (1_780_000_000, "revocation list of the root is stale"),
    ] {
        place.now = UnixTime::from_secs(now);
        let all = place.fetch();
        let error = all[0].result.as_ref().unwrap_err();
        assert_eq!(error.refusal(), Refusal::Expired, "{error}");
        let said = error.to_string();
        assert!(said.contains(name), "{said}");
        assert!(place.files().is_empty());
    }
}

#[test]
fn families_share_their_lists_and_so_all_are_written_or_none() {
    let Some(shared) = shared() else { return };
    let place = Place::intel(&shared, NEWER);
    let family = place.wanted[0];
    let unknown = Wanted::Platform {
        fmspc: [0xff; 6],
        ca: PckCa::Platform,
    };
    let both = place.with_more(unknown);
    let all = both.fetch();
    assert!(
        matches!(all[0].result, Err(FetchError::Together)),
        "{all:?}"
    );
    assert!(
        matches!(all[1].result, Err(FetchError::Http(HttpError::Unknown(_)))),
        "{all:?}"
    );
    assert!(both.files().is_empty());
    // The answer to one family's question for another's.
    let tcb = place::tcb_reply(&shared, NEWER);
    both.server
        .put("GET /tdx/certification/v4/tcb?fmspc=ffffffffffff", &[tcb]);
    refused!(both, FetchError::Other("FMSPC"));
    // What the folder has is asked for again with what is new.
    let folder = both.folder().join("intel-ffffffffffff-platform.json");
    fs::create_dir_all(both.folder()).unwrap();
    fs::write(&folder, b"{}").unwrap();
    both.server.asked();
    let held = both.with(family);
    held.fetch();
    assert!(
        held.server
            .asked()
            .iter()
            .any(|it| it.ends_with("fmspc=ffffffffffff"))
    );
}

#[test]
fn an_answer_that_does_not_say_good_leaves_the_chain_out() {
    let place = Place::device();
    let (question, certificate, issuer) = place.question(1);
    let mut answer = ocsp::Answer::of_issuer(ocsp::Line::good(&certificate, &issuer), &issuer);
    answer.lines[0].status = ocsp::revoked(Some(6));
    place.server.put(
        &question,
        &[ok(&answer.sign(&place.device.maker.authority))],
    );
    let all = place.fetch();
    let held = all
        .iter()
        .any(|it| matches!(&it.result, Err(FetchError::Judged(error)) if error.is_revoked()));
    assert!(held, "{all:?}");
    assert!(place.files().is_empty());
    // Signed by somebody else.
    place
        .server
        .put(&question, &[ok(&answer.sign(&spdm::Key::new()))]);
    assert!(
        place
            .fetch()
            .iter()
            .any(|it| matches!(&it.result, Err(FetchError::Judged(_))))
    );
    assert!(place.files().is_empty());
}

#[test]
fn a_manifest_of_another_name_root_or_version_is_not_kept() {
    let Some(shared) = shared() else { return };
    let xml = |name: &str| STANDARD.encode(fs::read(shared.join("nvidia").join(name)).unwrap());
    let switch = xml("switch-ls10/rim_switch.xml");
    // The signer of the switch's manifest is in force.
    let at = |name: &str| {
        let mut place = Place::manifest(name);
        place.now = UnixTime::from_secs(1_780_000_000);
        place
    };
    let place = at("NV_SWITCH_BIOS_5612_0002_890_9610550001");
    let name = "GET /v1/rim/NV_SWITCH_BIOS_5612_0002_890_9610550001";
    for (answer, word) in [
        (json!({"id": "NV_OTHER", "rim": switch}), "another manifest"),
        (
            json!({"rim": xml("neg-rim-other-root/rim.xml")}),
            "signer of the manifest",
        ),
        (json!({"rim": "!"}), "no manifest"),
        (json!([]), "no manifest"),
    ] {
        place.server.put(name, &[ok(answer.to_string().as_bytes())]);
        let all = place.fetch();
        let error = all[0].result.as_ref().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
        assert!(!place.folder().exists());
    }
    let body = json!({"rim": switch}).to_string();
    place.server.put(name, &[ok(body.as_bytes())]);
    assert!(matches!(place.fetch()[0].result, Ok(Kept::New)));
    let other = at("NV_SWITCH_BIOS_5612_0002_890_9610550002");
    let name = "GET /v1/rim/NV_SWITCH_BIOS_5612_0002_890_9610550002";
    other.server.put(name, &[ok(body.as_bytes())]);
    refused!(other, FetchError::Other("manifest's version"));
}
