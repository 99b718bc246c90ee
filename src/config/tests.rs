//! What a configuration is refused for, and what its digest depends on.

use std::fs;

use super::*;

const GOOD: &str = r#"# a comment
[server]
listen = "127.0.0.1:8443"
names = ["localhost"]
[broker]
address = "localhost:8444"
name = "localhost"
authority = "broker/ca.pem"
[trust]
release_key = "release/public.key"
client_authority = "client-ca/cert.pem"
[attestation]
platform = "snp"
collateral = "collateral"
[state]
folder = "state"
[audit]
file = "audit.log"
[[model]]
name = "default"
package = "models/default.casemate"
"#;

fn read(text: &str) -> Result<Loaded<ServerConfig>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    fs::write(&file, text).unwrap();
    let loaded = Loaded::<ServerConfig>::read(&file);
    if let Ok(loaded) = &loaded {
        assert_eq!(&*loaded.audit.file, folder.path().join("audit.log"));
        assert_eq!(
            &*loaded.models[0].package,
            folder.path().join("models/default.casemate")
        );
    }
    loaded.map_err(|error| error.to_string())
}

#[test]
fn what_is_in_force_is_written_with_defaults_and_reads_back_the_same() {
    let loaded = read(GOOD).unwrap();
    assert!(
        loaded.text().contains("session_seconds = 3600"),
        "{}",
        loaded.text()
    );
    assert!(
        loaded.text().contains("connections = 1024"),
        "{}",
        loaded.text()
    );
    assert!(
        loaded.text().contains("[engine]\nthreads = 0\n"),
        "{}",
        loaded.text()
    );
    let again = read(loaded.text()).unwrap();
    assert_eq!(
        (again.text(), again.digest()),
        (loaded.text(), loaded.digest())
    );
}

#[test]
fn the_digest_follows_values_and_nothing_else() {
    let digest = |text: &str| read(text).unwrap().digest();
    let quiet = GOOD.replace("# a comment\n", "\n\n");
    assert_eq!(digest(&quiet), digest(GOOD));
    assert_eq!(
        digest(&format!("{GOOD}\n[limits]\nqueue = 256\n")),
        digest(GOOD)
    );
    assert_ne!(
        digest(&format!("{GOOD}\n[limits]\nqueue = 255\n")),
        digest(GOOD)
    );
    assert_ne!(digest(&GOOD.replace("8443", "8445")), digest(GOOD));
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (from, to, shown) in [
        ("listen =", "lissten =", "lissten"),
        ("\"127.0.0.1:8443\"", "\"somewhere\"", "line 3"),
        ("platform = \"snp\"", "platform = \"none\"", "none"),
        (
            "platform = \"snp\"",
            "platform = \"snp\"\nsession_seconds = 0",
            "attestation.session_seconds",
        ),
        ("names = [\"localhost\"]", "names = []", "server.names"),
        ("name = \"default\"", "name = \"*\"", "wildcards"),
        ("[state]\nfolder = \"state\"\n", "", "state"),
        ("folder = \"state\"", "folder = \"\"", "line"),
        (
            "[[model]]",
            "[limits]\nconnections = 0\n[[model]]",
            "limits.connections",
        ),
        (
            "[attestation]",
            "[attestation]\ntest_chip_seed = \"seed\"",
            "attestation.test_chip_seed",
        ),
    ] {
        assert!(GOOD.contains(from));
        let error = read(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(
            error.contains("server.toml") && error.contains(shown),
            "{to}: {error}"
        );
    }
    let caret = read(&GOOD.replace("listen =", "lissten =")).unwrap_err();
    assert!(caret.contains('^'), "{caret}");
}

#[test]
fn s12_the_test_chip_needs_its_seed_and_the_feature() {
    let bare = GOOD.replace("\"snp\"\ncollateral = \"collateral\"", "\"test-chip\"");
    let seeded = bare.replace(
        "\"test-chip\"",
        "\"test-chip\"\ntest_chip_seed = \"test-chip/seed\"",
    );
    assert!(read(&bare).is_err());
    assert_eq!(read(&seeded).is_ok(), cfg!(feature = "test-chip"));
}

#[test]
fn what_a_platform_needs_stands_beside_it_and_nothing_else() {
    let with =
        |lines: &str| read(&GOOD.replace("platform = \"snp\"\ncollateral = \"collateral\"", lines));
    let refused = |lines: &str, field: &str| {
        let error = with(lines).unwrap_err();
        assert!(error.contains(field), "{lines}: {error}");
    };
    for platform in ["snp", "tdx"] {
        let line = format!("platform = \"{platform}\"");
        refused(&line, "attestation.collateral");
        let whole = with(&format!("{line}\ncollateral = \"vendor\"")).unwrap();
        assert!(
            whole
                .attestation
                .collateral
                .as_ref()
                .is_some_and(|it| it.ends_with("vendor"))
        );
        refused(
            &format!("{line}\ncollateral = \"vendor\"\ntpm = {{ registers = [0] }}"),
            "attestation.tpm",
        );
    }
    let tpm = |section: &str| format!("platform = \"tpm\"\ntpm = {section}");
    let told = with(&tpm("{ registers = [7, 0] }")).unwrap();
    let told = told.attestation.tpm.as_ref().unwrap();
    assert_eq!(told.registers, [0, 7].into());
    refused("platform = \"tpm\"", "attestation.tpm");
    refused(
        "platform = \"tpm\"\ncollateral = \"vendor\"\ntpm = { registers = [0] }",
        "collateral",
    );
    refused(&tpm("{ registers = [] }"), "attestation.tpm.registers");
    refused(&tpm("{ registers = [24] }"), "attestation.tpm.registers");
    let software = |address: &str| tpm(&format!("{{ registers = [0], software = \"{address}\" }}"));
    refused(&software("192.0.2.1:2321"), "attestation.tpm.software");
    let here = with(&software("127.0.0.1:2321"));
    assert_eq!(
        here.is_ok(),
        cfg!(feature = "test-chip"),
        "s12: never in production"
    );
}

#[test]
fn devices_are_asked_as_their_section_says_and_test_gpus_with_the_test_chip_alone() {
    let real = |lines: &str| {
        read(&GOOD.replace(
            "[state]",
            &format!("[attestation.devices]\n{lines}\n[state]"),
        ))
    };
    let seeded = GOOD.replace(
        "\"snp\"\ncollateral = \"collateral\"",
        "\"test-chip\"\ntest_chip_seed = \"test-chip/seed\"",
    );
    let test_chip = |lines: &str| {
        read(&seeded.replace(
            "[state]",
            &format!("[attestation.devices]\n{lines}\n[state]"),
        ))
    };
    let whole = real("source = \"nvidia\"\nanswers = \"vendor.json\"").unwrap();
    let devices = whole.attestation.devices.clone().unwrap();
    assert!(devices.answers.unwrap().is_absolute(), "beside the file");
    assert_eq!((devices.answer_seconds, devices.watch_seconds), (20, 60));
    assert!(read(whole.text()).is_ok(), "{}", whole.text());
    assert_ne!(whole.digest(), read(GOOD).unwrap().digest());
    let refused = |told: Result<Loaded<ServerConfig>, String>, field: &str| {
        let error = told.unwrap_err();
        assert!(error.contains(field), "{field}: {error}");
    };
    refused(real(""), "source");
    refused(real("source = \"amd\""), "amd");
    refused(real("source = \"nvidia\"\nspeed = 1"), "speed");
    for field in ["waiting", "answer_seconds", "watch_seconds"] {
        refused(real(&format!("source = \"nvidia\"\n{field} = 0")), field);
        let many = format!("source = \"nvidia\"\n{field} = 70000");
        refused(real(&many), field);
    }
    refused(
        real("source = \"nvidia\"\ntest_gpus = \"gpus\""),
        "test_gpus",
    );
    refused(
        real("source = \"test-gpus\"\ntest_gpus = \"gpus\""),
        "source",
    );
    let test = test_chip("source = \"test-gpus\"\ntest_gpus = \"gpus\"");
    assert_eq!(
        test.is_ok(),
        cfg!(feature = "test-chip"),
        "s12: never in production"
    );
    #[cfg(feature = "test-chip")]
    {
        refused(test_chip("source = \"test-gpus\""), "test_gpus");
        let both = "source = \"test-gpus\"\ntest_gpus = \"gpus\"\nanswers = \"a\"";
        refused(test_chip(both), "answers");
    }
}

#[test]
fn the_engine_is_told_what_it_can_do() {
    let told =
        |lines: &str| read(&GOOD.replace("[[model]]", &format!("[engine]\n{lines}\n[[model]]")));
    let engine = told("threads = 2\ncache = \"q8\"\nguess = false")
        .unwrap()
        .engine;
    assert_eq!(
        (engine.threads, engine.cache, engine.guess),
        (2, CacheKind::Q8, false)
    );
    let refused = |lines: &str| told(lines).unwrap_err();
    assert!(refused("cache = \"f32\"").contains("f32"));
    assert!(refused("prompt_tokens_per_step = 0").contains("must be 1 to 65536"));
    assert!(refused("idle_seconds = 0").contains("engine.idle_seconds"));
    assert!(refused("speed = 9").contains("speed"));
    assert!(refused("device = \"gpu\"").contains("cuda:N"));
    assert_eq!(
        told("device = \"cpu\"").unwrap().digest(),
        told("").unwrap().digest()
    );
    // A binary without CUDA names what is missing; one with CUDA writes the number down.
    let on_gpu = told("device = \"cuda\"").map(|loaded| loaded.text().to_owned());
    match casemate_models::device::HAS_CUDA {
        true => assert!(on_gpu.unwrap().contains("device = \"cuda:0\"")),
        false => assert!(
            on_gpu
                .unwrap_err()
                .contains("engine.device: this binary was built without CUDA")
        ),
    }
    let q8 = refused("device = \"cuda\"\ncache = \"q8\"");
    assert!(q8.contains(if casemate_models::device::HAS_CUDA {
        "engine.cache"
    } else {
        "CUDA"
    }));
}

#[test]
fn the_guard_keeps_ten_thousand_principals_unless_told_otherwise_and_never_none() {
    let loaded = read(GOOD).unwrap();
    assert_eq!(loaded.guard, GuardSection::default());
    assert!(loaded.text().contains("[guard]\nprincipals = 10000\n"));
    let with =
        |lines: &str| read(&GOOD.replace("[[model]]", &format!("[guard]\n{lines}\n[[model]]")));
    let files = with("background = \"questions.txt\"").unwrap();
    assert!(
        files
            .guard
            .background
            .as_ref()
            .unwrap()
            .ends_with("questions.txt")
    );
    for number in [0, 65_537] {
        let error = with(&format!("principals = {number}")).unwrap_err();
        assert!(error.contains("guard.principals"), "{error}");
    }
}
