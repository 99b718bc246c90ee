//! Who may sign manifests (rule R-3): a chain of the form that devices have, to a root that devices have not, and its leaf's signature.

use casemate_attestation::UnixTime;
use casemate_attestation::nvidia::{
    CertificatePlace, ManifestSigner, NvidiaRejection, PinnedManifestRoot,
};

use super::same;
use super::spdm::*;

const SIGNER: &str = "Test manifest signer";
/// 2026-03-02T00:00:00Z.
const SOON: (&str, UnixTime) = ("260302000000Z", UnixTime::from_secs(1_772_409_600));

/// A signer right under a root of its own.
struct Signing {
    maker: Maker,
    root: Vec<u8>,
    key: Key,
    leaf: Template,
}

fn signing() -> Signing {
    let maker = Maker::new();
    Signing {
        root: maker.root_der(),
        maker,
        key: Key::new(),
        leaf: Template {
            authority: None,
            usage: Some(0x80),
            ..Template::authority(SIGNER, ROOT)
        },
    }
}

impl Signing {
    fn chain(&self) -> Vec<Vec<u8>> {
        let leaf = self.leaf.issue(&self.key, &self.maker.root);
        vec![leaf, self.root.clone()]
    }

    /// The same with so many authorities between leaf and root, all by one name and key.
    fn over(&self, authorities: usize) -> Vec<Vec<u8>> {
        let key = &self.maker.authority;
        let mut leaf = self.leaf.clone();
        leaf.issuer = AUTHORITY.to_owned();
        let mut chain = vec![leaf.issue(&self.key, key)];
        let again = Template::authority(AUTHORITY, AUTHORITY).issue(key, key);
        chain.extend(std::iter::repeat_n(again, authorities - 1));
        chain.push(Template::authority(AUTHORITY, ROOT).issue(key, &self.maker.root));
        chain.push(self.root.clone());
        chain
    }

    fn judge(&self, chain: &[Vec<u8>]) -> Result<ManifestSigner, NvidiaRejection> {
        ManifestSigner::of(chain, &PinnedManifestRoot::private(&self.root), NOW)
    }
}

#[test]
fn r3_a_signer_signed_what_it_signed_and_nothing_else() {
    let signing = signing();
    let signer = signing.judge(&signing.chain()).unwrap();
    let signature = signing.key.sign(b"manifest");
    assert!(signer.signed(b"manifest", &signature));
    assert!(!signer.signed(b"manifesto", &signature));
    let mut changed = signature.clone();
    changed[95] ^= 1;
    assert!(!signer.signed(b"manifest", &changed));
    assert!(!signer.signed(b"manifest", &signature[..95]));
    assert!(!signer.signed(b"manifest", &Key::new().sign(b"manifest")));
    // As certificates are signed, and by the authority above.
    assert!(!signer.signed(b"manifest", &signing.key.sign_der(b"manifest")));
    assert!(!signer.signed(b"manifest", &signing.maker.root.sign(b"manifest")));
}

#[test]
fn r3_a_signers_chain_is_two_to_eight_certificates() {
    let signing = signing();
    let judged = |chain: &[Vec<u8>]| signing.judge(chain).map(drop);
    assert_eq!(judged(&signing.chain()), Ok(()));
    assert_eq!(judged(&signing.over(1)), Ok(()));
    assert_eq!(judged(&signing.over(6)), Ok(()), "eight");
    let length = NvidiaRejection::ChainLength;
    same(judged(&signing.over(7)).unwrap_err(), length(9), "N3");
    same(judged(&[]).unwrap_err(), length(0), "N3");
    // A root alone would sign for itself.
    let alone = [signing.root.clone()];
    same(judged(&alone).unwrap_err(), length(1), "N3");
}

#[test]
fn r3_a_signers_chain_ends_in_the_pinned_root() {
    let signing = signing();
    let (chain, other) = (signing.chain(), Maker::new().root_der());
    let none = NvidiaRejection::NoPinnedRoot;
    let under = |root: &PinnedManifestRoot| ManifestSigner::of(&chain, root, NOW).unwrap_err();
    same(under(&PinnedManifestRoot::nvidia()), none.clone(), "N3");
    let private = PinnedManifestRoot::private(&other);
    same(under(&private), none.clone(), "N3");
    // The root is there, and not last.
    let turned = [signing.root.clone(), chain[0].clone()];
    same(signing.judge(&turned).unwrap_err(), none, "N3");
    // It is last, and did not issue what stands before it.
    let mut borrowed = signing.leaf.clone();
    let place = CertificatePlace(0);
    let found = [
        borrowed.issue(&signing.key, &Key::new()),
        signing.root.clone(),
    ];
    let signature = NvidiaRejection::ChainSignature { place };
    same(signing.judge(&found).unwrap_err(), signature, "N3");
    borrowed.authority = Some((true, None));
    let found = [
        borrowed.issue(&signing.key, &signing.maker.root),
        signing.root.clone(),
    ];
    let authority = NvidiaRejection::LeafIsAuthority;
    same(signing.judge(&found).unwrap_err(), authority, "N3");
}

#[test]
fn r3_a_signer_counts_until_the_first_of_its_certificates_ends() {
    let mut signing = signing();
    let until = |signing: &Signing| signing.judge(&signing.chain()).map(|it| it.until());
    assert_eq!(until(&signing), Ok(UNTIL.1));
    signing.leaf.until = SOON.0;
    assert_eq!(until(&signing), Ok(SOON.1));
    let judged = |now| {
        let root = PinnedManifestRoot::private(&signing.root);
        ManifestSigner::of(&signing.chain(), &root, now).map(drop)
    };
    assert_eq!(judged(SOON.1), Ok(()));
    let (place, until, now) = (CertificatePlace(0), SOON.1, SOON.1.plus(1));
    let expired = NvidiaRejection::CertificateExpired { place, until, now };
    assert_eq!(judged(now), Err(expired));
}
