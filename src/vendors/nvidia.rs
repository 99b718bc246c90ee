//! NVIDIA's services: manifests by name (RIM service, version 1), and answers about revocation (OCSP).

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_attestation::Sha256Digest;
use casemate_attestation::collateral::PackError;
use casemate_attestation::nvidia::{WithIssuer, askable, judge_ocsp, ocsp_request};
use serde::Deserialize;

use super::config::Services;
use super::http::Ask;
use super::owned::Owned;
use super::shelf::Kept;
use super::{FetchError, Fetched, Round};
use crate::rim;

/// Where manifests lie in the folder: `collateral pack` takes no XML, `nvidia rim-import` does.
const MANIFESTS: &str = "manifests";

/// Everything, in the order in which it is asked for.
pub(super) fn asks<'a>(services: &'a Services, owned: &Owned) -> Result<Vec<Ask<'a>>, FetchError> {
    let mut all = Vec::new();
    for pair in certificates(owned)?.values() {
        all.push(question(services, pair)?);
    }
    all.extend(owned.manifests.iter().map(|name| manifest(services, name)));
    Ok(all)
}

/// Certificates to ask about, once each though many chains share them.
fn certificates(owned: &Owned) -> Result<BTreeMap<Sha256Digest, WithIssuer>, FetchError> {
    let mut all = BTreeMap::new();
    for chain in &owned.chains {
        for pair in pairs(chain)? {
            all.insert(Sha256Digest::of(&pair.0), pair);
        }
    }
    Ok(all)
}

fn pairs(chain: &[u8]) -> Result<Vec<WithIssuer>, FetchError> {
    match askable(chain) {
        Ok(pairs) if !pairs.is_empty() => Ok(pairs),
        Ok(_) => Err(FetchError::Form(
            "a chain has nobody between leaf and root".to_owned(),
        )),
        Err(error) => Err(FetchError::Form(error.to_string())),
    }
}

fn question<'a>(
    services: &'a Services,
    (certificate, issuer): &WithIssuer,
) -> Result<Ask<'a>, FetchError> {
    let question = ocsp_request(certificate, issuer);
    Ok(Ask {
        service: &services.nvidia_answers,
        rest: String::new(),
        question: Some(question.map_err(|error| FetchError::Form(error.to_string()))?),
    })
}

fn manifest<'a>(services: &'a Services, name: &str) -> Ask<'a> {
    Ask {
        service: &services.nvidia_manifests,
        rest: format!("/v1/rim/{name}"),
        question: None,
    }
}

fn fetched(item: String, file: String, result: Result<Kept, FetchError>) -> Fetched {
    Fetched {
        vendor: "nvidia",
        item,
        file,
        result,
    }
}

fn file(digest: &Sha256Digest, rest: &str) -> String {
    let start: String = digest.to_string().chars().take(32).collect();
    format!("nvidia-{start}-{rest}")
}

pub(super) async fn fetch(
    round: &Round<'_>,
    owned: &Owned,
    all: &mut Vec<Fetched>,
) -> Result<(), FetchError> {
    let mut answers = BTreeMap::new();
    for (digest, pair) in certificates(owned)? {
        let answer = answer(round, &pair).await;
        answers.insert(digest, answer);
    }
    for chain in &owned.chains {
        of_chain(round, chain, &answers, all)?;
    }
    for (digest, answer) in answers {
        if let Err(error) = answer {
            let item = format!("answer about certificate {digest}");
            all.push(fetched(item, file(&digest, "answer.der"), Err(error)));
        }
    }
    for name in &owned.manifests {
        let path = format!("{MANIFESTS}/{name}.xml");
        let result = of_manifest(round, name, &path).await;
        all.push(fetched(format!("manifest {name}"), path, result));
    }
    Ok(())
}

/// An answer that says good, by the rules of evidence.
async fn answer(round: &Round<'_>, pair: &WithIssuer) -> Result<Vec<u8>, FetchError> {
    let answer = round
        .client
        .ask(&question(round.services, pair)?)
        .await?
        .body;
    let (certificate, issuer) = pair;
    let of_judging = |error| FetchError::Judged(super::CollateralError::from(error));
    let good = judge_ocsp(&answer, certificate, issuer, round.now).map_err(of_judging)?;
    let name = file(&Sha256Digest::of(certificate), "answer.der");
    let held = round.shelf.held(&name)?;
    let held = held.and_then(|held| judge_ocsp(&held, certificate, issuer, round.now).ok());
    match held {
        Some(held) if good.issued() < held.issued() => Err(FetchError::Older("answer")),
        _ => Ok(answer),
    }
}

/// A chain with its answers: a bundle takes neither without the other, so they are written together.
fn of_chain(
    round: &Round<'_>,
    chain: &[u8],
    answers: &BTreeMap<Sha256Digest, Result<Vec<u8>, FetchError>>,
    all: &mut Vec<Fetched>,
) -> Result<(), FetchError> {
    let mut files = vec![chain];
    let mut named = Vec::new();
    for (certificate, _) in pairs(chain)? {
        let digest = Sha256Digest::of(&certificate);
        if let Some(Ok(answer)) = answers.get(&digest) {
            files.push(answer);
            named.push((digest, answer));
        }
    }
    let name = file(&Sha256Digest::of(chain), "chain.pem");
    let item = format!(
        "chain of a device, {} certificates asked about",
        files.len() - 1
    );
    match round.right(&files) {
        Ok(_) => {
            for (digest, answer) in named {
                let (name, item) = (
                    file(&digest, "answer.der"),
                    format!("answer about certificate {digest}"),
                );
                // Chains share certificates; each answer is told once.
                if !all.iter().any(|it| it.file == name) {
                    let kept = round.shelf.put(&name, answer).map_err(FetchError::from);
                    all.push(fetched(item, name, kept));
                }
            }
            let kept = round.shelf.put(&name, chain).map_err(FetchError::from);
            all.push(fetched(item, name, kept));
        }
        Err(FetchError::Pack(PackError::NoAnswer(_))) => {
            all.push(fetched(item, name, Err(FetchError::Together)));
        }
        Err(error) => all.push(fetched(item, name, Err(error))),
    }
    Ok(())
}

/// The service's answer. What else it says is not read: the manifest is signed, this is not.
#[derive(Deserialize)]
struct RimAnswer {
    id: Option<String>,
    rim: String,
}

async fn of_manifest(round: &Round<'_>, name: &str, path: &str) -> Result<Kept, FetchError> {
    let body = round
        .client
        .ask(&manifest(round.services, name))
        .await?
        .body;
    let form = || FetchError::Form("answer holds no manifest".to_owned());
    let answer: RimAnswer = serde_json::from_slice(&body).map_err(|_| form())?;
    if answer.id.is_some_and(|id| id != name) {
        return Err(FetchError::Other("manifest"));
    }
    let text: String = answer.rim.split_ascii_whitespace().collect();
    let xml = STANDARD.decode(text).map_err(|_| form())?;
    let imported = rim::import(&xml, &round.roots.manifests, round.now)?;
    // A manifest does not say its own name, but its version, which the name ends with.
    let version = imported.list.version;
    let ends = [
        format!("_{version}"),
        format!("_{}", version.replace('.', "")),
    ];
    if !ends
        .iter()
        .any(|end| name.to_ascii_uppercase().ends_with(end))
    {
        return Err(FetchError::Other("manifest's version"));
    }
    Ok(round.shelf.put(path, &xml)?)
}
