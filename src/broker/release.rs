//! The decision: which keys go to whom. Nothing leaves before every check has passed and the decision is on disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use casemate_attestation::{
    Binding, Envelope, Expectations, Platform, TrustAnchors, UnixTime, VerifiedEvidence, Verifier,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::documents::{Documents, Issued};
use super::guard;
use super::refusal::Refusal;
use super::store::Store;
use super::wire;
use crate::guard::mark::root_label;
use crate::keys::{self, KeyEncryption, PackageId, RegisteredKey};
use crate::org::Organisation;
use crate::policy::PolicyDocument;

/// No release is for more packages or names.
const LIST_LENGTH_MAX: usize = 64;

/// What the broker knows and keeps. One decision at a time: releases are rare, and the store has one writer.
pub(super) struct Desk {
    organisation: Organisation,
    anchors: TrustAnchors,
    kek: Box<dyn KeyEncryption>,
    books: Mutex<Books>,
}

struct Books {
    store: Store,
    documents: Documents,
}

/// What was decided, for the audit log and for the connection.
pub(super) struct Decision {
    pub(super) evidence: VerifiedEvidence,
    pub(super) answer: wire::KeysAnswer,
}

/// A release that was asked for on a connection whose challenge was just spent.
pub(super) struct Asked<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) binding: &'a Binding,
    pub(super) request: &'a wire::KeysRequest,
    /// The TLS client's leaf (DER): its key goes into the certificate.
    pub(super) client_leaf: &'a [u8],
}

impl Desk {
    pub(super) fn new(
        organisation: Organisation,
        anchors: TrustAnchors,
        kek: Box<dyn KeyEncryption>,
        store: Store,
    ) -> Self {
        let folder = organisation.folder().to_owned();
        let documents = Documents::new(folder, *organisation.release_key());
        Self {
            organisation,
            anchors,
            kek,
            books: Mutex::new(Books { store, documents }),
        }
    }

    /// Checks that the broker could release something now. Returns the numbers of policy and revocation list.
    pub(super) fn ready(&self, now: UnixTime) -> Result<(u64, u64), Refusal> {
        let mut books = self.books();
        let Books { store, documents } = &mut *books;
        self.verifier(store, documents, now)?;
        let policy = documents.policy(store, now)?.0.number;
        let revocations = documents.revocations(store, now)?.number;
        self.keys(store)?;
        Ok((policy, revocations))
    }

    /// Decides about one release (rule P-51). All or nothing.
    pub(super) fn release(&self, asked: &Asked<'_>, now: UnixTime) -> Result<Decision, Refusal> {
        let wire::KeysRequest {
            names, packages, ..
        } = asked.request;
        for (what, length) in [("name", names.len()), ("package", packages.len())] {
            if length == 0 || length > LIST_LENGTH_MAX {
                return Err(Refusal::Nothing(what));
            }
        }
        let mut books = self.books();
        let Books { store, documents } = &mut *books;
        let verifier = self.verifier(store, documents, now)?;
        let evidence = verifier.verify(asked.envelope, asked.binding, now)?;
        let models = asked.envelope.context().models.iter();
        if !models.eq(packages.iter().map(|package| &package.digest)) {
            return Err(Refusal::OtherModels);
        }
        check_names(&verifier, &evidence, names)?;
        let (policy, document) = documents.policy(store, now)?;
        check_policy(document, packages)?;
        let mark = self.mark(document.mark_epoch)?;
        let revocations = documents.revocations(store, now)?;
        let registered = self.keys(store)?;
        let keys = packages
            .iter()
            .map(|package| self.unwrap(store, &registered, package))
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = self.issue_leaf(asked.client_leaf, names, now)?;
        self.record(store, &registered, packages)?;
        let name = names.first().ok_or(Refusal::Nothing("name"))?;
        let guard = guard::release(store, &*self.kek, &guard::server(&evidence, name))?;
        let (policy_bundle, revocations) = (policy.bytes, revocations.bytes);
        let answer = wire::KeysAnswer {
            leaf,
            policy_bundle,
            revocations,
            keys,
            mark,
            guard,
        };
        Ok(Decision { evidence, answer })
    }

    /// Documents newer than those a server has (rule P-52), if its chip and measurement still count.
    pub(super) fn updates(
        &self,
        evidence: &VerifiedEvidence,
        have: &wire::UpdatesRequest,
        now: UnixTime,
    ) -> Result<wire::UpdatesAnswer, Refusal> {
        let mut books = self.books();
        let Books { store, documents } = &mut *books;
        self.verifier(store, documents, now)?
            .still_counts(evidence, now)?;
        let newer = |document: Issued, number: u64| {
            (document.number > number).then_some(wire::Bytes(document.bytes))
        };
        let policy_bundle = newer(documents.policy(store, now)?.0, have.policy_number);
        let revocations = newer(documents.revocations(store, now)?, have.revocation_number);
        Ok(wire::UpdatesAnswer {
            policy_bundle,
            revocations,
        })
    }

    /// Raises what is held of a server's guard (rule P-53), if its chip and measurement still count.
    pub(super) fn raise_guard(
        &self,
        evidence: &VerifiedEvidence,
        name: &str,
        floor: &wire::GuardFloor,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let mut books = self.books();
        let Books { store, documents } = &mut *books;
        self.verifier(store, documents, now)?
            .still_counts(evidence, now)?;
        guard::raise(store, &guard::server(evidence, name), floor)
    }

    fn verifier(
        &self,
        store: &mut Store,
        documents: &mut Documents,
        now: UnixTime,
    ) -> Result<Verifier, Refusal> {
        let platform: Platform = self.anchors.platform();
        let reference = documents.reference(store, now)?.clone();
        let fleet = documents.fleet(store, now)?;
        let expectations = Expectations::new(platform, &reference, fleet)
            .map_err(|e| Refusal::NothingAccepted(e.to_string()))?;
        Ok(Verifier::new(self.anchors.clone(), expectations)?)
    }

    /// Every registered key; what is registered raises the floors of its model's name and its id.
    fn keys(&self, store: &mut Store) -> Result<Vec<RegisteredKey>, Refusal> {
        let registered = keys::list(self.organisation.folder())?;
        let marks: Vec<(String, u64)> = registered.iter().flat_map(marks_of).collect();
        store.raise(marks.iter().map(|(mark, epoch)| (mark.as_str(), *epoch)))?;
        Ok(registered)
    }

    fn unwrap(
        &self,
        store: &Store,
        registered: &[RegisteredKey],
        package: &wire::Package,
    ) -> Result<wire::KeyAnswer, Refusal> {
        let id = PackageId::from_bytes(package.id);
        let unknown = || Refusal::PackageUnknown(id.to_string());
        let known = registered.iter().find(|key| key.subject.package_id == id);
        let below = |floor| Refusal::EpochBelowFloor {
            id: id.to_string(),
            epoch: package.epoch,
            floor,
        };
        let known = known.ok_or_else(unknown)?;
        for (mark, _) in marks_of(known) {
            let floor = store.highest(&mark);
            if package.epoch < floor {
                return Err(below(floor));
            }
        }
        let same = known.subject.epoch == package.epoch
            && known.digest == *package.digest.as_bytes()
            && known.key_id == package.key_id
            && known.key_id == self.kek.key_id();
        if !same {
            return Err(unknown());
        }
        let key = self.kek.unwrap(&known.subject, &known.wrapped)?;
        Ok(wire::KeyAnswer {
            id: package.id,
            key: key.expose().to_vec(),
        })
    }

    /// The key of marks of this epoch: derived where the key-encryption key is, and kept nowhere.
    fn mark(&self, epoch: u32) -> Result<wire::MarkAnswer, Refusal> {
        let key = self.kek.derive(&root_label(epoch))?;
        let key = key.expose().to_vec();
        Ok(wire::MarkAnswer { epoch, key })
    }

    fn issue_leaf(
        &self,
        client_leaf: &[u8],
        names: &[String],
        now: UnixTime,
    ) -> Result<String, Refusal> {
        let (_, certificate) = X509Certificate::from_der(client_leaf)
            .map_err(|_| Refusal::Internal("the client's leaf does not parse".into()))?;
        let key = certificate.public_key().raw;
        Ok(self
            .organisation
            .enclaves()
            .issue_server(key, names, now.secs())?)
    }

    /// Makes the release durable before anything leaves: its epochs, and that there was one more.
    fn record(
        &self,
        store: &mut Store,
        registered: &[RegisteredKey],
        packages: &[wire::Package],
    ) -> Result<(), Refusal> {
        let asked = |key: &&RegisteredKey| {
            packages
                .iter()
                .any(|package| package.id == *key.subject.package_id.as_bytes())
        };
        let marks: Vec<(String, u64)> =
            registered.iter().filter(asked).flat_map(marks_of).collect();
        let count = store.highest(RELEASES).saturating_add(1);
        let marks = marks.iter().map(|(mark, epoch)| (mark.as_str(), *epoch));
        Ok(store.raise(marks.chain([(RELEASES, count)]))?)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many releases there were.
const RELEASES: &str = "releases";

/// The two floors that a registered key raises: of its package, and of every package with its model's name.
fn marks_of(key: &RegisteredKey) -> [(String, u64); 2] {
    let epoch = key.subject.epoch;
    [
        (format!("epoch/package/{}", key.subject.package_id), epoch),
        (format!("epoch/name/{}", key.name), epoch),
    ]
}

/// Policy says which models exist: one that it does not name is served by nobody, whatever was registered.
fn check_policy(policy: &PolicyDocument, packages: &[wire::Package]) -> Result<(), Refusal> {
    let named = |package: &&wire::Package| {
        let mut digests = policy.models.values();
        digests.any(|digest| *digest == package.digest)
    };
    match packages.iter().find(|package| !named(package)) {
        Some(package) => {
            let id = PackageId::from_bytes(package.id);
            Err(Refusal::NotInPolicy(id.to_string()))
        }
        None => Ok(()),
    }
}

fn check_names(
    verifier: &Verifier,
    evidence: &VerifiedEvidence,
    names: &[String],
) -> Result<(), Refusal> {
    let chip = verifier.expectations().chip(&evidence.chip_id());
    let allowed = chip.map(|chip| chip.names.as_slice()).unwrap_or_default();
    match names.iter().find(|name| !allowed.contains(name)) {
        Some(name) => Err(Refusal::NameNotAllowed(name.chars().take(253).collect())),
        None => Ok(()),
    }
}
