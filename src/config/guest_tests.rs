//! What an image's configuration is refused for.

use std::path::Path;

use super::*;

const GOOD: &str = r#"[network]
mode = "dhcp"
[disk]
model = "casemate-model"
[clock]
not_before = "2026-11-01"
not_after = "2027-11-01"
[server.server]
listen = "0.0.0.0:7443"
names = ["localhost"]
[server.broker]
address = "10.0.2.2:7440"
name = "localhost"
authority = "trust/broker-ca.pem"
[server.trust]
release_key = "trust/release.key"
client_authority = "/etc/casemate/trust/client-ca.pem"
[server.attestation]
platform = "tpm"
tpm = { registers = [4, 9] }
[server.state]
folder = "/run/casemate/state"
[server.audit]
file = "/run/casemate/audit.jsonl"
[[server.model]]
name = "default"
package = "/run/casemate/disk/model"
"#;

fn parse(text: &str) -> Result<Loaded<GuestConfig>, String> {
    let file = Path::new(GUEST_FOLDER).join("guest.toml");
    Loaded::<GuestConfig>::parse(text, &file).map_err(|error| error.to_string())
}

#[test]
fn a_guest_is_read_with_the_server_in_it() {
    let loaded = parse(GOOD).unwrap();
    assert_eq!(loaded.network.interface, "eth0");
    assert_eq!(loaded.clock.broker_skew_seconds, 300);
    assert_eq!(
        &*loaded.server.trust.release_key,
        Path::new("/etc/casemate/trust/release.key")
    );
    assert_eq!(
        &*loaded.server.models[0].package,
        Path::new("/run/casemate/disk/model")
    );
    let again = parse(loaded.text()).unwrap();
    assert_eq!(again.digest(), loaded.digest());
    let digest = loaded.digest();
    let server = loaded.part(|guest| guest.server);
    assert_eq!(server.digest(), digest, "the binding names the whole file");
    assert_ne!(
        parse(&GOOD.replace("2027", "2028")).unwrap().digest(),
        digest
    );
}

#[test]
fn a_static_address_is_an_address_of_one_machine() {
    let fixed = |rest: &str| {
        let section = format!("mode = \"static\"\n{rest}");
        parse(&GOOD.replace("mode = \"dhcp\"", &section))
    };
    let loaded = fixed("address = \"10.1.2.3/24\"\ngateway = \"10.1.2.1\"").unwrap();
    assert_eq!(loaded.network.address.unwrap().to_string(), "10.1.2.3/24");
    for wrong in [
        "",
        "address = \"10.1.2.3\"",
        "address = \"10.1.2.3/0\"",
        "address = \"10.1.2.3/33\"",
        "address = \"0.0.0.0/24\"",
        "address = \"224.0.0.1/24\"",
        "address = \"255.255.255.255/24\"",
        "address = \"127.0.0.1/8\"",
        "address = \"fe80::1/64\"",
        "address = \"10.1.2.3/24\"\ngateway = \"0.0.0.0\"",
        "address = \"10.1.2.3/24\"\ninterface = \"a-name-that-is-too-long\"",
        "address = \"10.1.2.3/24\"\ninterface = \"../x\"",
    ] {
        assert!(fixed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn mistakes_are_named_with_what_to_write() {
    for (from, to, shown) in [
        (
            "mode = \"dhcp\"",
            "mode = \"dhcp\"\naddress = \"10.0.0.1/8\"",
            "network.address",
        ),
        (
            "mode = \"dhcp\"",
            "mode = \"dhcp\"\ngateway = \"10.0.0.1\"",
            "network.gateway",
        ),
        ("model = \"casemate-model\"", "", "disk"),
        (
            "model = \"casemate-model\"",
            "other = \"casemate-model\"",
            "is no disk of [disk]",
        ),
        (
            "model = \"casemate-model\"",
            "model = \"a\"\nmore = \"b\"",
            "no model is at",
        ),
        (
            "model = \"casemate-model\"",
            "model = \"a\"\nmore = \"a\"",
            "same serial",
        ),
        (
            "\"casemate-model\"",
            "\"a serial that is too long\"",
            "serial is 1 to 20",
        ),
        ("\"casemate-model\"", "\"\"", "serial is 1 to 20"),
        ("model = \"casemate-model\"", "Model = \"x\"", "disk's name"),
        ("2026-11-01", "2026-02-29", "not_before"),
        ("2026-11-01", "2027-11-01", "clock.not_after"),
        ("2026-11-01", "27.11.2026", "not_before"),
        (
            "\"2027-11-01\"",
            "\"2027-11-01\"\nbroker_skew_seconds = 0",
            "clock.broker_skew_seconds",
        ),
        (
            "10.0.2.2:7440",
            "broker.example:7440",
            "asks nobody for names",
        ),
        ("0.0.0.0:7443", "0.0.0.0:0", "server.server.listen"),
        ("0.0.0.0:7443", "[::]:7443", "server.server.listen"),
        ("tpm = { registers = [4, 9] }", "", "attestation.tpm"),
        ("trust/release.key", "../release.key", "write trust/NAME"),
        (
            "trust/release.key",
            "trust/../../secret",
            "write trust/NAME",
        ),
        (
            "trust/release.key",
            "/run/casemate/release.key",
            "write trust/NAME",
        ),
        ("trust/release.key", "trust", "write trust/NAME"),
        (
            "/run/casemate/state",
            "/etc/casemate/state",
            "cannot be written",
        ),
        (
            "/run/casemate/state",
            "/run/casemate/../x",
            "cannot be written",
        ),
        (
            "/run/casemate/audit.jsonl",
            "audit.jsonl",
            "cannot be written",
        ),
        ("[network]", "[extra]\n[network]", "extra"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let error = parse(&text).unwrap_err();
        assert!(error.contains(shown), "{to}: {error}");
    }
}

#[test]
fn b20_no_file_outside_of_the_image_is_read_and_nothing_of_it_is_written() {
    let read = "trust/release.key";
    let written = "/run/casemate/audit.jsonl";
    let package = "/run/casemate/disk/model";
    for (field, outside) in [
        (read, "/run/casemate/disk/release.key"),
        (read, "/proc/self/environ"),
        (read, "/etc/casemate/guest.toml"),
        (read, "trust/../../../run/casemate/key"),
        (written, "/etc/casemate/trust/audit.jsonl"),
        (written, "/dev/vda"),
        (written, "/run/casemate"),
        (package, "/run/casemate/state/model"),
        (package, "/run/casemate/disk/../state/model"),
        (package, "/dev/vda"),
        (package, "trust/model"),
    ] {
        let text = GOOD.replacen(field, outside, 1);
        assert!(parse(&text).is_err(), "{outside}");
    }
}

#[test]
fn no_image_is_vouched_for_by_a_seed_or_a_program() {
    let chip = GOOD
        .replace("platform = \"tpm\"", "platform = \"test-chip\"")
        .replace(
            "tpm = { registers = [4, 9] }",
            "test_chip_seed = \"trust/seed\"",
        );
    assert!(parse(&chip).unwrap_err().contains("attestation.platform"));
    let software = GOOD.replace("[4, 9]", "[4], software = \"127.0.0.1:2321\"");
    assert!(
        parse(&software)
            .unwrap_err()
            .contains("attestation.tpm.software")
    );
}

#[test]
fn an_image_has_no_gpus_whose_library_would_be_loaded() {
    let devices = GOOD.replace(
        "tpm = { registers = [4, 9] }",
        "tpm = { registers = [4, 9] }\ndevices = { source = \"nvidia\" }",
    );
    assert!(
        parse(&devices)
            .unwrap_err()
            .contains("server.attestation.devices")
    );
}

#[test]
fn days_begin_when_the_calendar_says() {
    for (day, secs) in [
        ("2000-01-01", 946_684_800),
        ("2000-02-29", 951_782_400),
        ("2000-03-01", 951_868_800),
        ("2026-11-27", 1_795_737_600),
        ("2100-02-28", 4_107_456_000),
        ("2100-03-01", 4_107_542_400),
        ("2199-12-31", 7_258_032_000),
    ] {
        let date: Date = day.parse().unwrap();
        assert_eq!(date.begins().secs(), secs, "{day}");
        assert_eq!(date.to_string(), day);
    }
    for wrong in [
        "1999-12-31",
        "2200-01-01",
        "2100-02-29",
        "2026-13-01",
        "2026-00-01",
        "2026-1-1",
        "+026-11-01",
        "2026-11-00",
        "2026-11-31",
        "",
    ] {
        assert!(wrong.parse::<Date>().is_err(), "{wrong}");
    }
}
