//! Bundles, decisions and budgets.

use std::net::{IpAddr, Ipv4Addr};

use casemate_attestation::{
    ChipId, Issue, Platform, ReleaseSecretKey, Sha256Digest, SignedError, TcbVersion, UnixTime,
};
use ring::rand::SystemRandom;

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_790_000_000);

const RULES: &str = r#"
@id("writers-chat")
permit (principal in Team::"writers", action in [Action::"chat", Action::"list"], resource in Alias::"small");
@id("coders-all")
permit (principal in Team::"coders", action, resource);
@id("no-logprobs")
forbid (principal, action == Action::"use_logprobs", resource);
"#;

fn budget(requests: u64, tokens: u64, concurrency: u32) -> Budget {
    Budget {
        window_seconds: 3600,
        requests,
        tokens,
        concurrency,
    }
}

fn team(name: &str, tokens: u64) -> (TeamName, Team) {
    let team = Team {
        principals: vec![format!("spiffe://acme/team/{name}/*").parse().unwrap()],
        output_tokens_max: 100,
        session_seconds: 600,
        share: 1,
        shared: budget(10, 10 * tokens, 4),
        each: budget(5, tokens, 2),
        output: OutputRules::default(),
    };
    (name.parse().unwrap(), team)
}

fn document(cedar: &str) -> PolicyDocument {
    let digest = |name: &str| (name.parse().unwrap(), Sha256Digest::of(name.as_bytes()));
    PolicyDocument {
        format: POLICY_FORMAT.to_owned(),
        cedar: cedar.to_owned(),
        teams: [team("writers", 1000), team("coders", 5000)].into(),
        models: [digest("small"), digest("large")].into(),
        mark_epoch: 1,
        guard: None,
    }
}

fn signed(document: &PolicyDocument, number: u64) -> (Vec<u8>, ReleaseSecretKey) {
    let key = ReleaseSecretKey::generate(&SystemRandom::new()).unwrap();
    let issue = Issue {
        number,
        issued: NOW,
        expires: NOW.plus(86_400),
    };
    // Signed without the check of `PolicyDocument::sign`: what opening refuses must be refused here too.
    (
        casemate_attestation::SignedDocument::sign(document, issue, &key).unwrap(),
        key,
    )
}

fn open(document: &PolicyDocument) -> Result<PolicyBundle, PolicyError> {
    let (bytes, key) = signed(document, 7);
    PolicyBundle::open(&bytes, &key.public().unwrap(), 7, NOW)
}

fn refused(cedar: &str) -> PolicyError {
    let document = document(cedar);
    let error = open(&document).unwrap_err();
    let issue = Issue {
        number: 1,
        issued: NOW,
        expires: NOW.plus(1),
    };
    let key = ReleaseSecretKey::generate(&SystemRandom::new()).unwrap();
    assert!(
        document.sign(issue, &key).is_err(),
        "signed although refused: {error}"
    );
    error
}

fn who(text: &str) -> Principal {
    text.parse().unwrap()
}

fn ada() -> Principal {
    who("spiffe://acme/team/writers/ada")
}

fn context() -> DecisionContext {
    DecisionContext {
        now: NOW,
        platform: Platform::Snp,
        confidential: true,
        tcb: None,
        client: None,
        peer: IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)),
        tokens_spent: 0,
        data_class: None,
        attested_at: NOW,
    }
}

fn ask(
    bundle: &PolicyBundle,
    principal: &Principal,
    action: Action,
    model: &str,
) -> Result<Granted, Denied> {
    decide(
        bundle,
        principal,
        action,
        &bundle.model(model).unwrap(),
        &context(),
    )
}

fn ask_in(cedar: &str, context: &DecisionContext) -> Result<Granted, Denied> {
    let bundle = open(&document(cedar)).unwrap();
    decide(
        &bundle,
        &ada(),
        Action::Chat,
        &bundle.model("small").unwrap(),
        context,
    )
}

#[test]
fn b06_unsigned_older_expired_or_foreign_bundles_are_refused() {
    let document = document(RULES);
    let (bytes, key) = signed(&document, 7);
    let public = key.public().unwrap();
    let open = |bytes: &[u8], floor, now| PolicyBundle::open(bytes, &public, floor, now);
    let bundle = open(&bytes, 7, NOW).unwrap();
    assert_eq!(
        (bundle.number(), bundle.digest()),
        (7, Sha256Digest::of(&bytes))
    );

    use casemate_attestation::signed::Payload as _;
    assert!(matches!(
        open(&document.to_payload().unwrap(), 0, NOW),
        Err(PolicyError::Signed(_))
    ));
    let older = open(&bytes, 8, NOW);
    assert!(matches!(
        older,
        Err(PolicyError::Signed(SignedError::RolledBack {
            found: 7,
            floor: 8,
            ..
        }))
    ));
    let expired = open(&bytes, 7, NOW.plus(86_400));
    assert!(matches!(
        expired,
        Err(PolicyError::Signed(SignedError::Expired { .. }))
    ));
    let early = open(&bytes, 7, NOW.minus(1));
    assert!(matches!(
        early,
        Err(PolicyError::Signed(SignedError::NotYetValid { .. }))
    ));

    let (foreign, _) = signed(&document, 7);
    assert!(matches!(
        open(&foreign, 0, NOW),
        Err(PolicyError::Signed(SignedError::WrongKey { .. }))
    ));
    let text = String::from_utf8(bytes)
        .unwrap()
        .replace("\"number\":7", "\"number\":9");
    let altered = open(text.as_bytes(), 0, NOW);
    assert!(matches!(
        altered,
        Err(PolicyError::Signed(SignedError::BadSignature(_)))
    ));
}

#[test]
fn rules_outside_the_schema_are_refused_with_line_and_caret() {
    for (cedar, what) in [
        ("permit (principal, action, resource)", "syntax"),
        (
            "permit (principal, action == Action::\"train\", resource);",
            "action",
        ),
        (
            "permit (principal, action, resource) when { context.colour == \"red\" };",
            "attribute",
        ),
        (
            "permit (principal, action, resource) when { context.hour == \"nine\" };",
            "type",
        ),
        (
            "permit (principal, action, resource) when { context.data_class == \"x\" };",
            "optional",
        ),
        (
            "permit (principal in Group::\"x\", action, resource);",
            "entity type",
        ),
    ] {
        let error = refused(&format!("\n{cedar}"));
        let PolicyError::Cedar(excerpt) = &error else {
            panic!("{what}: {error}")
        };
        assert_eq!(
            excerpt.position().map(|(line, _)| line),
            Some(2),
            "{what}: {error}"
        );
        assert!(error.to_string().contains('^'), "{what}: {error}");
    }
}

#[test]
fn rules_that_name_what_the_policy_does_not_have_are_refused() {
    for cedar in [
        "permit (principal in Team::\"nobody\", action, resource);",
        "permit (principal, action, resource in Alias::\"huge\");",
        "permit (principal, action, resource == Model::\"00\");",
        "permit (principal == Principal::\"spiffe://acme/team/others/eve\", action, resource);",
        "permit (principal, action, resource) unless { principal in Team::\"nobody\" };",
    ] {
        assert!(
            matches!(refused(cedar), PolicyError::UnknownReference { .. }),
            "{cedar}"
        );
    }
    let template = "permit (principal == ?principal, action, resource);";
    assert!(matches!(refused(template), PolicyError::Template));
    let rule = "@id(\"same\") permit (principal, action, resource);";
    assert!(matches!(
        refused(&format!("{rule}{rule}")),
        PolicyError::RuleTwice(_)
    ));
    let spaced = "@id(\"a b\") permit (principal, action, resource);";
    assert!(matches!(refused(spaced), PolicyError::RuleName(_)));
}

#[test]
fn two_teams_have_their_own_models_and_limits() {
    let bundle = open(&document(RULES)).unwrap();
    let lin = who("spiffe://acme/team/coders/lin");
    let granted = ask(&bundle, &ada(), Action::Chat, "small").unwrap();
    assert_eq!(
        (granted.team().as_str(), granted.limits().each.tokens),
        ("writers", 1000)
    );
    assert_eq!(granted.rules(), ["writers-chat".parse().unwrap()]);
    assert_eq!(
        ask(&bundle, &lin, Action::Chat, "large")
            .unwrap()
            .limits()
            .each
            .tokens,
        5000
    );

    let denied = ask(&bundle, &ada(), Action::Chat, "large").unwrap_err();
    assert_eq!(
        denied.to_string(),
        "team writers has no rule that permits chat on model large"
    );
    assert_eq!(
        ask(&bundle, &ada(), Action::Embed, "small")
            .unwrap_err()
            .code(),
        "not_permitted"
    );
    let stranger = ask(
        &bundle,
        &who("spiffe://evil/team/writers/ada"),
        Action::Chat,
        "small",
    );
    assert!(matches!(stranger, Err(Denied::NoTeam(_))));
}

#[test]
fn k07_one_principal_never_falls_under_the_policies_of_two_teams() {
    let mut document = document(RULES);
    let claim = "spiffe://acme/team/writers/ada".parse().unwrap();
    document
        .teams
        .get_mut("coders")
        .unwrap()
        .principals
        .push(claim);
    let error = open(&document).unwrap_err();
    assert!(matches!(error, PolicyError::TeamsOverlap { .. }), "{error}");
}

#[test]
fn an_empty_policy_permits_nothing() {
    let bundle = open(&document("")).unwrap();
    for action in Action::ALL {
        assert_eq!(
            ask(&bundle, &ada(), action, "small").unwrap_err().code(),
            "not_permitted"
        );
    }
}

#[test]
fn forbid_overrides_permit_and_is_named() {
    let bundle = open(&document(RULES)).unwrap();
    let denied = ask(
        &bundle,
        &who("spiffe://acme/team/coders/lin"),
        Action::UseLogprobs,
        "small",
    )
    .unwrap_err();
    assert_eq!(denied.code(), "forbidden");
    assert!(denied.to_string().contains("no-logprobs"), "{denied}");
}

#[test]
fn an_error_while_deciding_means_no_even_in_a_forbid() {
    // Passes the validator; overflows while it is evaluated. Cedar by itself would skip the rule and permit.
    for effect in ["permit", "forbid"] {
        let cedar = format!(
            "@id(\"all\") permit (principal, action, resource);
             @id(\"broken\") {effect} (principal, action, resource)
             when {{ context.tokens_spent * 9223372036854775807 > 1 }};"
        );
        let mut context = context();
        context.tokens_spent = 2;
        let denied = ask_in(&cedar, &context).unwrap_err();
        assert_eq!(denied.code(), "decision_failed", "{effect}");
        assert_eq!(denied.rules(), ["broken".parse().unwrap()]);
        context.tokens_spent = 0;
        assert!(ask_in(&cedar, &context).is_ok());
    }
    let mut context = context();
    context.tokens_spent = u64::MAX;
    let denied = ask_in("permit (principal, action, resource);", &context).unwrap_err();
    assert_eq!(denied.code(), "decision_failed");
}

#[test]
fn conditions_see_the_situation() {
    let all = context();
    let holds = |condition: &str, context: &DecisionContext| {
        let cedar = format!("permit (principal, action, resource) when {{ {condition} }};");
        ask_in(&cedar, context).is_ok()
    };
    // 1,790,000,000 s is 13:33:20 UTC.
    for condition in [
        "context.platform == \"snp\" && context.confidential",
        "context.hour == 14 || context.hour == 13",
        "context.peer.isInRange(ip(\"10.0.0.0/8\"))",
        "context.session_age == 0 && context.tokens_spent == 0",
        "!(context has client_evidence) && !(context has tcb)",
    ] {
        assert!(holds(condition, &all), "{condition}");
    }
    let other = DecisionContext {
        tcb: Some(TcbVersion {
            snp: 25,
            ..TcbVersion::default()
        }),
        client: Some(ClientMachine {
            platform: Platform::Snp,
            chip: ChipId::from_bytes([0xab; 64]),
        }),
        data_class: Some("internal".to_owned()),
        ..context()
    };
    for condition in [
        "context has tcb && context.tcb.snp >= 25",
        "context has client_evidence && context.client_evidence == \"snp\"",
        "context has client_confidential && context.client_confidential",
        "context has client_chip && context.client_chip like \"abab*\"",
        "context has data_class && context.data_class == \"internal\"",
    ] {
        assert!(
            holds(condition, &other) && !holds(condition, &all),
            "{condition}"
        );
    }
}

#[test]
fn time_ends_policies_and_sessions() {
    let bundle = open(&document(RULES)).unwrap();
    let model = bundle.model("small").unwrap();
    let mut context = context();
    context.now = NOW.plus(599);
    assert!(decide(&bundle, &ada(), Action::Chat, &model, &context).is_ok());
    context.now = NOW.plus(600);
    let denied = decide(&bundle, &ada(), Action::Chat, &model, &context).unwrap_err();
    assert_eq!(denied.code(), "session_too_old");
    context.now = bundle.expires();
    context.attested_at = context.now;
    let denied = decide(&bundle, &ada(), Action::Chat, &model, &context).unwrap_err();
    assert_eq!(denied.code(), "policy_expired");
}

#[test]
fn s10_a_name_stands_for_one_model_and_a_moved_name_is_not_followed() {
    let old = open(&document(RULES)).unwrap();
    for name in ["*", "", "smal", "Small"] {
        assert_eq!(old.model(name), None, "{name:?}");
    }
    let mut moved = document(RULES);
    *moved.models.get_mut("small").unwrap() = Sha256Digest::of(b"another model");
    let new = open(&moved).unwrap();
    let denied = decide(
        &new,
        &ada(),
        Action::Chat,
        &old.model("small").unwrap(),
        &context(),
    );
    assert!(matches!(denied, Err(Denied::ModelGone(_))));
}

fn granted(principal: &str) -> Granted {
    let cedar = "permit (principal, action, resource);";
    ask(
        &open(&document(cedar)).unwrap(),
        &who(principal),
        Action::Chat,
        "small",
    )
    .unwrap()
}

#[test]
fn tokens_are_set_aside_and_settled() {
    let mut budgets = Budgets::default();
    let ada = granted("spiffe://acme/team/writers/ada");
    let first = budgets.admit(&ada, 850, 5000, NOW).unwrap();
    assert_eq!(first.output_tokens_max(), 100, "the team's limit");
    let second = budgets.admit(&ada, 20, 100, NOW).unwrap();
    assert_eq!(second.output_tokens_max(), 30, "what is left");
    assert!(matches!(
        budgets.admit(&ada, 1, 1, NOW),
        Err(BudgetExceeded::Concurrency { limit: 2, .. })
    ));
    budgets.settle(second, 25);
    assert!(matches!(
        budgets.admit(&ada, 25, 1, NOW),
        Err(BudgetExceeded::Tokens {
            left: 25,
            needed: 26,
            ..
        })
    ));
    budgets.settle(first, 860);
    assert_eq!(budgets.tokens_spent(ada.principal(), NOW), 885);
}

#[test]
fn reconnecting_a_new_policy_and_a_clock_that_goes_back_reset_nothing() {
    let budgets = SharedBudgets::default();
    let ask = |now| {
        let granted = granted("spiffe://acme/team/writers/ada");
        budgets.admit(&granted, 1, 1, now).map(drop)
    };
    for _ in 0..5 {
        ask(NOW).unwrap();
    }
    let refused = ask(NOW).unwrap_err();
    assert_eq!(refused.code(), "requests_exceeded");
    assert!(ask(NOW.minus(7200)).is_err());
    let wait = refused.retry_after_seconds(NOW);
    assert!((1..=3600).contains(&wait));
    assert!(ask(NOW.plus(wait - 1)).is_err());
    assert!(ask(NOW.plus(wait)).is_ok());
}

#[test]
fn k07_a_team_shares_its_budget_and_no_other_teams() {
    let budgets = SharedBudgets::default();
    let ask = |principal: &str| budgets.admit(&granted(principal), 1, 1, NOW).map(drop);
    for member in ["a", "b"] {
        for _ in 0..5 {
            ask(&format!("spiffe://acme/team/writers/{member}")).unwrap();
        }
    }
    let third = ask("spiffe://acme/team/writers/c").unwrap_err();
    assert!(matches!(
        third,
        BudgetExceeded::Requests {
            holder: budget::Holder::Team(_),
            limit: 10,
            ..
        }
    ));
    ask("spiffe://acme/team/coders/lin").unwrap();
}

#[test]
fn a_slot_that_is_dropped_charges_what_was_counted() {
    let budgets = SharedBudgets::default();
    let ada = granted("spiffe://acme/team/writers/ada");
    let mut slot = budgets.admit(&ada, 10, 50, NOW).unwrap();
    slot.count(3);
    assert_eq!(
        budgets.tokens_spent(ada.principal(), NOW),
        60,
        "set aside while under way"
    );
    drop(slot);
    assert_eq!(budgets.tokens_spent(ada.principal(), NOW), 13);
}

#[test]
fn sources_are_read_from_a_folder_and_complaints_have_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let digest = Sha256Digest::of(b"small");
    let tables = format!(
        "[models]\nsmall = \"{digest}\"\n[team.writers]\nprincipals = [\"spiffe://acme/team/writers/*\"]\n\
         output_tokens_max = 100\nsession_seconds = 600\n\
         shared = {{ window_seconds = 60, requests = 1, tokens = 1, concurrency = 1 }}\n\
         each = {{ window_seconds = 60, requests = 1, tokens = 1, concurrency = 1 }}\n"
    );
    let rules = "permit (principal in Team::\"writers\", action, resource);\n";
    let read = |tables: &str, rules: &str| {
        std::fs::write(folder.path().join("policy.toml"), tables).unwrap();
        std::fs::write(folder.path().join("policy.cedar"), rules).unwrap();
        PolicySource::read(folder.path()).map_err(|error| error.to_string())
    };
    assert_eq!(read(&tables, rules).unwrap().document().teams.len(), 1);
    let shared = tables.replace("session_seconds = 600", "session_seconds = 600\nshare = 7");
    let team = |tables: &str| {
        let source = read(tables, rules).unwrap();
        source.document().teams.values().next().unwrap().clone()
    };
    assert_eq!((team(&tables).share, team(&shared).share), (1, 7));
    for (tables, rules, file, place) in [
        (
            shared.replace("share = 7", "share = 0"),
            rules,
            "policy.toml",
            "share is not 1 to 1000",
        ),
        (
            shared.replace("share = 7", "share = 1001"),
            rules,
            "policy.toml",
            "share is not 1 to 1000",
        ),
        (
            tables.replace("shared", "shard"),
            rules,
            "policy.toml",
            "shard",
        ),
        (
            tables.replace("small = ", "\"sm*\" = "),
            rules,
            "policy.toml",
            "wildcards",
        ),
        (
            tables.replace("session_seconds = 600", "session_seconds = 0"),
            rules,
            "policy.toml",
            "writers",
        ),
        (
            tables.clone(),
            "permit (principal in Team::\"wrters\", action, resource);",
            "policy.cedar",
            "wrters",
        ),
        (
            tables.clone(),
            "permit (principal, action resource);",
            "policy.cedar",
            "line 1",
        ),
    ] {
        let error = read(&tables, rules).unwrap_err();
        assert!(error.contains(file) && error.contains(place), "{error}");
    }
}
