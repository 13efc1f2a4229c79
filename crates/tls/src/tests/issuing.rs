//! What the authority signs, and what it refuses.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};

use crate::limits::MAX_REQUEST_BYTES;
use crate::test_fleet::{DAY, Fleet, after, window};
use crate::{
    AuthorityError, CertificateAuthority, CertificateRequest, IssueError, LeafCertificate, PrivateKey, RequestError,
};
use std::time::Duration;

/// OpenSSL 3.0.19: `openssl req -new -newkey rsa:2048 -nodes -subj /CN=x -outform DER`, in base64.
const RSA_REQUEST: &str = "MIICUTCCATkCAQAwDDEKMAgGA1UEAwwBeDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAJ9aqeqisPtfwlD/oslvZJCRLLr0W6qTEBs4jxnCWfgM3CeHXnjbVMDJ3hLKHqTYjKNlURwxeox004pGGj5ZtTv9lm5DLiSJLT/DIqreX6m21MRp6dyn877Gul/AxTluFKb5Vb/ND+FJH6kRPzDT1d8P0TkZY/6QW8JhOYkCoLukPLtQgqhjSG9G1Iwa5ZqoDIfNNGyJitW5kEOWo9dixYygq2VRjP5eZOTyY6cnhz9ZbrdA6x18Pnd9tJAsV5B2bmSWvSZ/Pjvay/mil2r8tP9ooczkXVrUxSv7RIuE1O722UuWdiCgdfI5w107mvOVoVZ97CjZfvzgP9DEQ9g6YNsCAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4IBAQA5ZLBbpbXznV2IcGLAv6d85WyZFB0SfPaiYxDoCBUt44e7iIWpqtyqLdfebURYHR2FXstIcdpStoO/NloVWGS8LAQlTm3UYEj/XzxFQ0hsnO1s7zCWjBTenpTRsEcOwFGV+RMoLV/23Y1OzrtzUU6k5xNo99eCxNucoJOFT37TS/CdYE+m/plI7Bvj9GQ8/dXlQPt0HgSMJvA68QbENwUKTDhWAfRN92B3ISZXyieJ4FwaXyNo6uRVg+SpEpDw1Nbl8rbmUfQP2V0eqdQcUCavnizT7qqALYjSXvcJjLeKFFFMcXf5eZ28RNgep7xBMCiH14+A+Rj5IfTjvDQm9Lz8";

fn request_with(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec()
}

#[test]
fn a_request_for_another_kind_of_key_is_refused() {
    let rsa = STANDARD.decode(RSA_REQUEST).unwrap();
    let p384 = request_with(&rcgen::PKCS_ECDSA_P384_SHA384);
    let ed25519 = request_with(&rcgen::PKCS_ED25519);
    for request in [rsa, p384, ed25519] {
        assert!(matches!(
            CertificateRequest::parse(&request),
            Err(RequestError::NotP256)
        ));
    }
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let honest = PrivateKey::generate().unwrap().certificate_request().unwrap();
    let other = PrivateKey::generate().unwrap().certificate_request().unwrap();
    // An empty subject and fresh P-256 keys make both bodies equally long; the attacker signs with a key of its own.
    let body = 3 + honest[3..]
        .windows(10)
        .position(|w| w == b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04")
        .unwrap();
    let stolen_key = [&other[..3], &honest[3..body], &other[body..]].concat();
    assert!(matches!(
        CertificateRequest::parse(&stolen_key),
        Err(RequestError::BadSignature | RequestError::Malformed)
    ));
    let mut damaged = honest.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        CertificateRequest::parse(&damaged),
        Err(RequestError::BadSignature)
    ));
    assert!(CertificateRequest::parse(&honest).is_ok());
}

#[test]
fn an_oversized_truncated_or_extended_request_is_refused() {
    let honest = PrivateKey::generate().unwrap().certificate_request().unwrap();
    let extended = [honest.as_slice(), b"x"].concat();
    assert!(matches!(
        CertificateRequest::parse(&extended),
        Err(RequestError::Malformed)
    ));
    assert!(matches!(
        CertificateRequest::parse(&honest[..honest.len() - 1]),
        Err(RequestError::Malformed)
    ));
    assert!(matches!(CertificateRequest::parse(&[]), Err(RequestError::Malformed)));
    let found = MAX_REQUEST_BYTES + 1;
    let oversized = CertificateRequest::parse(&vec![0x30; found]);
    assert!(matches!(oversized, Err(RequestError::TooLarge { found: f }) if f == found));
}

#[test]
fn names_and_powers_that_a_request_asks_for_are_not_granted() {
    let fleet = Fleet::new();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let wanted = "spiffe://farm.example/controller/c0";
    greedy.subject_alt_names = vec![
        SanType::URI(wanted.try_into().unwrap()),
        SanType::DnsName("controller.example".try_into().unwrap()),
    ];
    let request = CertificateRequest::parse(greedy.serialize_request(&key).unwrap().der()).unwrap();
    let principal = fleet.device_principal(1);
    let issued = fleet
        .authority
        .issue(&request, &principal, window(Duration::ZERO, DAY), fleet.next_serial())
        .unwrap();
    let leaf = LeafCertificate::parse(&issued).unwrap();
    assert_eq!(leaf.principal, principal);
    assert_eq!(leaf.key_digest, request.key_digest());
    assert_eq!(
        (leaf.validity.not_before(), leaf.validity.not_after()),
        (after(Duration::ZERO), after(DAY))
    );
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued).unwrap();
    assert!(!certificate.is_ca());
    assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
    assert_eq!(
        certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
}

#[test]
fn an_authority_signs_only_within_its_domain_its_life_and_for_servers_their_names() {
    let fleet = Fleet::new();
    let request = CertificateRequest::parse(&PrivateKey::generate().unwrap().certificate_request().unwrap()).unwrap();
    let day = window(Duration::ZERO, DAY);
    let foreign = Fleet::of("other.example").device_principal(1);
    let issue = |principal, window| fleet.authority.issue(&request, principal, window, fleet.next_serial());
    assert!(matches!(issue(&foreign, day), Err(IssueError::ForeignDomain { .. })));
    let own = fleet.device_principal(1);
    assert!(matches!(
        issue(&own, window(DAY, 3651 * DAY)),
        Err(IssueError::OutlivesAuthority { .. })
    ));
    let named = fleet
        .authority
        .issue_server(&request, &own, &[], day, fleet.next_serial());
    assert!(matches!(named, Err(IssueError::NotAServer { .. })));
    assert!(issue(&own, day).is_ok());
}

#[test]
fn an_authority_is_the_same_after_loading_and_not_with_a_foreign_key() {
    let (one, other) = (Fleet::new().authority, Fleet::new().authority);
    let loaded = CertificateAuthority::from_pem(&one.certificate_pem(), one.key_pem()).unwrap();
    assert_eq!(loaded.certificate(), one.certificate());
    let mixed = CertificateAuthority::from_pem(&one.certificate_pem(), other.key_pem());
    assert!(matches!(mixed, Err(AuthorityError::KeyMismatch)));
}

#[test]
fn half_life_is_when_renewal_begins() {
    let identity = Fleet::new().device(1);
    assert!(!identity.needs_renewal(after(DAY / 2 - Duration::from_millis(1))));
    assert!(identity.needs_renewal(after(DAY / 2)));
    assert!(!identity.is_expired(after(DAY)));
    assert!(identity.is_expired(after(DAY + Duration::from_secs(1))));
}
