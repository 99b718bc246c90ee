//! A second sealed model that guesses for the first.

use std::fs;

use crate::place::{Place, chat, http};

const PACKAGE: &str = "package = \"casemate-default.casemate\"";
const DRAFTED: &str = "package = \"casemate-default.casemate\"\ndraft = \"draft.casemate\"";

#[test]
fn a_draft_is_released_like_a_model_and_changes_no_answer() {
    let place = Place::new();
    assert!(
        fs::read_to_string(place.path("server.toml"))
            .unwrap()
            .contains(PACKAGE)
    );
    let ask = || {
        let _broker = place.start("broker", "broker.toml");
        let _server = place.start("serve", "server.toml");
        let connect = place.start("connect", "connect-research.toml");
        let question = chat("What is a dog?", 24);
        let answer = http(&connect.ready, "POST", "chat/completions", &question).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let models = http(&connect.ready, "GET", "models", b"").unwrap().json();
        let text = answer.json()["choices"][0]["message"]["content"].to_string();
        (text, models["data"].as_array().unwrap().len())
    };
    let plain = ask();
    place.command(&[
        "model",
        "seal",
        "casemate-default.gguf",
        "--org",
        "org",
        "--name",
        "draft",
        "--version",
        "1",
        "--epoch",
        "1",
        "--out",
        "draft.casemate",
    ]);
    place.edit("server.toml", PACKAGE, DRAFTED);
    {
        // Nobody has said that this model may run.
        let _broker = place.start("broker", "broker.toml");
        let (code, said) = place.refused("serve", "server.toml");
        assert_eq!(code, 10, "{said}");
        assert!(said.contains("package_not_in_policy"), "{said}");
    }
    place.name_in_policy("draft.casemate");
    // The same text, and no more models than before.
    assert_eq!(ask(), plain);
    // A model does not guess for itself: its key is released once.
    place.edit(
        "server.toml",
        "\"draft.casemate\"",
        "\"casemate-default.casemate\"",
    );
    let (code, said) = place.refused("serve", "server.toml");
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("the same package as another one"), "{said}");
}
