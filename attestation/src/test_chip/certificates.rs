//! The test chip's certificates and revocation lists, shaped like AMD's, and wrong ones on request.

use super::der::{
    self, IA5_STRING, OCTET_STRING, SET, UTF8_STRING, bits, explicit, integer, oid, sequence, tlv,
};
use super::{Keys, PRODUCT, TestChip};
use crate::digest::UnixTime;

/// 2024-01-01T00:00:00Z.
pub const VALID_FROM: UnixTime = UnixTime::from_secs(1_704_067_200);
/// 2044-01-01T00:00:00Z.
pub const VALID_UNTIL: UnixTime = UnixTime::from_secs(2_335_219_200);

pub(super) const ROOT_SERIAL: u32 = 0x1_0000;
pub(super) const INTERMEDIATE_SERIAL: u32 = 0x1_0001;
const ORGANISATION: &str = "Casemate test chip, NOT CONFIDENTIAL";

/// Who signs a certificate or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// The root, ARK.
    Root,
    /// The intermediate, ASK. The ASVK of a test has the same key and another name.
    Intermediate,
}

/// An endorsement certificate to be issued.
#[derive(Debug, Clone)]
pub struct VekTemplate {
    /// `SEV-VCEK` or `SEV-VLEK`.
    pub common_name: String,
    /// The issuer's common name, `SEV-Genoa` or `SEV-VLEK-Genoa`.
    pub issuer: String,
    /// Who really signs.
    pub signer: Authority,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
    /// Whether it claims to be an authority.
    pub authority: bool,
    /// AMD's structure version: 0, on Turin 1.
    pub structure: u8,
    /// The product name.
    pub product_name: String,
    /// Firmware versions by the last arc of their extension: 1 boot loader, 2 TEE, 3 SNP, 8 microcode, 9 FMC.
    pub components: Vec<(u32, u8)>,
    /// The hardware id, raw.
    pub hardware_id: Option<Vec<u8>>,
    /// The cloud provider of a VLEK.
    pub csp_id: Option<String>,
}

/// An intermediate to be issued.
#[derive(Debug, Clone)]
pub struct IntermediateTemplate {
    /// `SEV-Genoa` or `SEV-VLEK-Genoa`.
    pub common_name: String,
    /// The issuer's common name.
    pub issuer: String,
    /// Who really signs.
    pub signer: Authority,
    /// Whether it claims to be an authority.
    pub authority: bool,
    /// Serial number.
    pub serial: u32,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
}

/// A revocation list to be issued.
#[derive(Debug, Clone)]
pub struct CrlTemplate {
    /// The issuer's common name.
    pub issuer: String,
    /// Who really signs.
    pub signer: Authority,
    /// First second of validity.
    pub this_update: UnixTime,
    /// When the next is due.
    pub next_update: UnixTime,
    /// Serial numbers.
    pub revoked: Vec<u32>,
}

impl Default for IntermediateTemplate {
    /// The chip's own intermediate.
    fn default() -> Self {
        Self {
            common_name: format!("SEV-{PRODUCT}"),
            issuer: root_name(),
            signer: Authority::Root,
            authority: true,
            serial: INTERMEDIATE_SERIAL,
            not_before: VALID_FROM,
            not_after: VALID_UNTIL,
        }
    }
}

impl CrlTemplate {
    /// A good list, issued an hour before `now` to allow for clocks, with the next one due 366 days after it.
    #[must_use]
    pub fn issued_at(now: UnixTime) -> Self {
        Self {
            issuer: root_name(),
            signer: Authority::Root,
            this_update: now.minus(3600),
            next_update: now.plus(366 * 86_400),
            revoked: Vec::new(),
        }
    }
}

impl TestChip {
    /// Issues an endorsement certificate for this chip's key.
    #[must_use]
    pub fn issue_vek(&self, template: &VekTemplate) -> Vec<u8> {
        let amd = |arcs: &[u32], value: &[u8]| {
            let arcs = [&[6, 1, 4, 1, 3704, 1], arcs].concat();
            sequence(&[&oid(1, 3, &arcs), &tlv(OCTET_STRING, &[value])])
        };
        let mut extensions = vec![
            amd(&[1], &integer(&[template.structure])),
            amd(&[2], &tlv(IA5_STRING, &[template.product_name.as_bytes()])),
        ];
        extensions.extend(
            template
                .components
                .iter()
                .map(|(arc, value)| amd(&[3, *arc], &integer(&[*value]))),
        );
        extensions.extend(template.hardware_id.as_ref().map(|id| amd(&[4], id)));
        extensions.extend(
            template
                .csp_id
                .as_ref()
                .map(|id| amd(&[5], &tlv(IA5_STRING, &[id.as_bytes()]))),
        );
        extensions.extend(
            template
                .authority
                .then(authority_extensions)
                .into_iter()
                .flatten(),
        );
        let curve = sequence(&[&oid(1, 2, &[840, 10045, 2, 1]), &oid(1, 3, &[132, 0, 34])]);
        let form = Form {
            serial: 0,
            issuer: &template.issuer,
            subject: &template.common_name,
            validity: (template.not_before, template.not_after),
            key: sequence(&[&curve, &bits(&self.vek_point())]),
            extensions,
        };
        self.keys().issue(template.signer, &form)
    }

    /// Issues a certificate for the intermediate's key.
    #[must_use]
    pub fn issue_intermediate(&self, template: &IntermediateTemplate) -> Vec<u8> {
        self.keys().intermediate_certificate(template)
    }

    /// Issues a revocation list.
    #[must_use]
    pub fn issue_crl(&self, template: &CrlTemplate) -> Vec<u8> {
        let date = der::time(template.this_update);
        let entries: Vec<Vec<u8>> = template
            .revoked
            .iter()
            .map(|serial| sequence(&[&integer(&serial.to_be_bytes()), &date]))
            .collect();
        let entries = if entries.is_empty() {
            Vec::new()
        } else {
            sequence(&[&entries.concat()])
        };
        let number = sequence(&[&oid(2, 5, &[29, 20]), &tlv(OCTET_STRING, &[&integer(&[1])])]);
        let tbs = sequence(&[
            &integer(&[1]),
            &pss_sha384(),
            &name(&template.issuer),
            &date,
            &der::time(template.next_update),
            &entries,
            &explicit(0, &sequence(&[&number])),
        ]);
        self.keys().sign(template.signer, &tbs)
    }

    /// Signs a certificate's or a list's inner part as it is, well-formed or not. `algorithm` is what stands outside;
    /// whatever it says, the signature is RSA-PSS with SHA-384.
    #[must_use]
    pub fn sign_der(&self, signer: Authority, inner: &[u8], algorithm: &[u8]) -> Vec<u8> {
        let signature = self.keys().signature(signer, inner);
        sequence(&[inner, algorithm, &bits(&signature)])
    }
}

impl Keys {
    pub(super) fn root_certificate(&self) -> Vec<u8> {
        let form = Form {
            serial: ROOT_SERIAL,
            issuer: &root_name(),
            subject: &root_name(),
            validity: (VALID_FROM, VALID_UNTIL),
            key: rsa_key(self.root.public()),
            extensions: authority_extensions(),
        };
        self.issue(Authority::Root, &form)
    }

    fn intermediate_certificate(&self, template: &IntermediateTemplate) -> Vec<u8> {
        let form = Form {
            serial: template.serial,
            issuer: &template.issuer,
            subject: &template.common_name,
            validity: (template.not_before, template.not_after),
            key: rsa_key(self.intermediate.public()),
            extensions: if template.authority {
                authority_extensions()
            } else {
                Vec::new()
            },
        };
        self.issue(template.signer, &form)
    }

    fn issue(&self, signer: Authority, form: &Form<'_>) -> Vec<u8> {
        let extensions = match form.extensions.as_slice() {
            [] => Vec::new(),
            extensions => explicit(3, &sequence(&[&extensions.concat()])),
        };
        let tbs = sequence(&[
            &explicit(0, &integer(&[2])),
            &integer(&form.serial.to_be_bytes()),
            &pss_sha384(),
            &name(form.issuer),
            &sequence(&[&der::time(form.validity.0), &der::time(form.validity.1)]),
            &name(form.subject),
            &form.key,
            &extensions,
        ]);
        self.sign(signer, &tbs)
    }

    fn sign(&self, signer: Authority, tbs: &[u8]) -> Vec<u8> {
        sequence(&[tbs, &pss_sha384(), &bits(&self.signature(signer, tbs))])
    }

    fn signature(&self, signer: Authority, message: &[u8]) -> Vec<u8> {
        match signer {
            Authority::Root => self.root.sign(message),
            Authority::Intermediate => self.intermediate.sign(message),
        }
    }
}

/// What differs between certificates.
struct Form<'a> {
    serial: u32,
    issuer: &'a str,
    subject: &'a str,
    validity: (UnixTime, UnixTime),
    key: Vec<u8>,
    extensions: Vec<Vec<u8>>,
}

pub(super) fn root_name() -> String {
    format!("ARK-{PRODUCT}")
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = |arc: u32, text: &str| {
        let pair = sequence(&[&oid(2, 5, &[4, arc]), &tlv(UTF8_STRING, &[text.as_bytes()])]);
        tlv(SET, &[&pair])
    };
    sequence(&[&attribute(10, ORGANISATION), &attribute(3, common_name)])
}

/// Basic constraints and key usage of an authority, both critical.
fn authority_extensions() -> Vec<Vec<u8>> {
    let critical = |arc: u32, value: &[u8]| {
        sequence(&[
            &oid(2, 5, &[29, arc]),
            &der::boolean_true(),
            &tlv(OCTET_STRING, &[value]),
        ])
    };
    let constraints = sequence(&[&der::boolean_true()]);
    let sign_certificates_and_lists = [0x03, 0x02, 0x01, 0x06];
    vec![
        critical(19, &constraints),
        critical(15, &sign_certificates_and_lists),
    ]
}

fn rsa_key((modulus, exponent): (Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let algorithm = sequence(&[&oid(1, 2, &[840, 113_549, 1, 1, 1]), &[0x05, 0x00]]);
    let key = sequence(&[&integer(&modulus), &integer(&exponent)]);
    sequence(&[&algorithm, &bits(&key)])
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt.
fn pss_sha384() -> Vec<u8> {
    let hash = sequence(&[&oid(2, 16, &[840, 1, 101, 3, 4, 2, 2])]);
    let mask = sequence(&[&oid(1, 2, &[840, 113_549, 1, 1, 8]), &hash]);
    let parameters = sequence(&[
        &explicit(0, &hash),
        &explicit(1, &mask),
        &explicit(2, &integer(&[48])),
    ]);
    sequence(&[&oid(1, 2, &[840, 113_549, 1, 1, 10]), &parameters])
}
