//! Which certificate has which principal, and which has none.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

fn certificate(names: Vec<SanType>, subject: &[(DnType, &str)]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, text) in subject {
        params.distinguished_name.push(kind.clone(), *text);
    }
    params.subject_alt_names = names;
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn email(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

const CN: &[(DnType, &str)] = &[(DnType::CommonName, "Ada Byron")];

fn read(names: Vec<SanType>, subject: &[(DnType, &str)]) -> Result<String, PrincipalError> {
    Principal::from_certificate(&certificate(names, subject)).map(|p| p.to_string())
}

#[test]
fn the_first_kind_that_is_there_counts() {
    let all = vec![
        email("Ada@Acme.example"),
        dns("ADA.acme.example"),
        uri("spiffe://acme/team/x/ada"),
    ];
    assert_eq!(read(all.clone(), CN).unwrap(), "spiffe://acme/team/x/ada");
    assert_eq!(read(all[..2].to_vec(), CN).unwrap(), "dns:ada.acme.example");
    assert_eq!(
        read(all[..1].to_vec(), CN).unwrap(),
        "email:Ada@acme.example"
    );
    assert_eq!(read(vec![], CN).unwrap(), "subject:Ada Byron");
}

#[test]
fn two_identities_of_the_kind_that_counts_are_none() {
    let two = vec![uri("spiffe://acme/a"), uri("spiffe://acme/b")];
    assert_eq!(
        read(two, CN),
        Err(PrincipalError::Ambiguous {
            kind: "SPIFFE",
            count: 2
        })
    );
    let other = vec![uri("spiffe://acme/a"), uri("https://acme.example")];
    assert_eq!(
        read(other, CN),
        Err(PrincipalError::Ambiguous {
            kind: "SPIFFE",
            count: 2
        })
    );
    let two = vec![dns("a.example"), dns("b.example")];
    assert_eq!(
        read(two, CN),
        Err(PrincipalError::Ambiguous {
            kind: "DNS",
            count: 2
        })
    );
}

#[test]
fn malformed_identities_never_fall_through_to_the_next_kind() {
    for bad in [
        "spiffe://acme",
        "spiffe://acme/",
        "spiffe://Acme/x",
        "spiffe://acme/a/../b",
        "spiffe://acme/a%2e",
        "spiffe://acme/a?x",
        "spiffe://acme//a",
    ] {
        let result = read(vec![uri(bad), dns("ok.example")], CN);
        assert_eq!(
            result,
            Err(PrincipalError::NotWellFormed("SPIFFE")),
            "{bad}"
        );
    }
    assert_eq!(
        read(vec![dns("*.example")], CN),
        Err(PrincipalError::NotWellFormed("DNS"))
    );
}

#[test]
fn a_subject_counts_only_when_it_is_one_plain_common_name() {
    let organisation = [
        (DnType::CommonName, "Ada"),
        (DnType::OrganizationName, "Acme"),
    ];
    assert_eq!(read(vec![], &organisation), Err(PrincipalError::Nameless));
    assert_eq!(read(vec![], &[]), Err(PrincipalError::Nameless));
    let tricky = [(DnType::CommonName, "Ada, O=Acme")];
    assert_eq!(
        read(vec![], &tricky),
        Err(PrincipalError::NotWellFormed("subject"))
    );
    assert_eq!(
        Principal::from_certificate(b"\x30\x00"),
        Err(PrincipalError::Malformed)
    );
}

#[test]
fn patterns_match_below_a_path_and_nothing_beside_it() {
    let pattern: PrincipalPattern = "spiffe://acme/team/a/*".parse().unwrap();
    let is = |text: &str| pattern.matches(&text.parse().unwrap());
    assert!(is("spiffe://acme/team/a/x") && is("spiffe://acme/team/a/x/y"));
    assert!(
        !is("spiffe://acme/team/a")
            && !is("spiffe://acme/team/ab")
            && !is("spiffe://other/team/a/x")
    );
    for bad in [
        "*",
        "spiffe://*",
        "spiffe://acme/*",
        "dns:*",
        "dns:a/*",
        "spiffe://acme/*/x",
        "ada",
        "email:*@x",
    ] {
        assert!(bad.parse::<PrincipalPattern>().is_err(), "{bad}");
    }
}
