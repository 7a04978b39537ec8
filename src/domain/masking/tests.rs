//! Each form, each offset, each way to cut a log: nothing that is written has a secret in it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const SECRET: &str = "hün/ter2 +x\"%";

fn masks(secrets: &[&str]) -> Masks {
    let masks = Masks::default();
    masks.add(&secrets.iter().map(|secret| SecretString::from(*secret)).collect::<Vec<_>>());
    masks
}

/// Without line breaks, as one who puts a secret together again reads it.
fn joined(text: &str) -> String {
    text.replace(['\n', '\r'], "")
}

/// What may not be found: written down here anew, not taken from what the masks look for.
fn forms_of(secret: &str) -> Vec<String> {
    let percent = |keep: &str, upper: bool| -> String {
        let byte = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() || keep.as_bytes().contains(&byte) => char::from(byte).to_string(),
            byte if upper => format!("%{byte:02X}"),
            byte => format!("%{byte:02x}"),
        };
        secret.bytes().map(byte).collect()
    };
    let json = serde_json::to_string(secret).unwrap();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        STANDARD.encode(secret).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(secret),
        percent("", true),
        percent("-_.~", true),
        percent("-_.~", false),
        percent("-_.~/", true),
        percent("-_.~!*'()", true),
        percent("*-._", true).replace("%20", "+"),
        json[1..json.len() - 1].to_owned(),
        hex.to_uppercase(),
        hex,
    ]
}

#[track_caller]
fn assert_hidden(shown: &str, secret: &str) {
    let shown = joined(shown);
    for form in forms_of(secret) {
        let form = joined(&form);
        assert!(form.chars().count() < SHORTEST || !shown.contains(&form), "`{form}` is to be seen in {shown:?}");
    }
}

#[test]
fn every_form_is_masked() {
    let masks = masks(&[SECRET]);
    for form in forms_of(SECRET) {
        let masked = masks.mask(&format!("before {form} behind")).into_owned();
        assert_hidden(&masked, SECRET);
        assert!(masked.starts_with("before ***") && masked.ends_with("behind"), "{form}: {masked}");
    }
    assert_eq!(masks.mask("nothing to hide"), "nothing to hide");
}

#[test]
fn base64_is_masked_wherever_the_secret_begins_in_it() {
    let secret = "correct-horse";
    let masks = masks(&[secret]);
    for before in ["", "a", "user:", "Aladdin:"] {
        for behind in ["", "!", "@host"] {
            for engine in [&STANDARD, &URL_SAFE_NO_PAD] {
                let masked = masks.mask(&engine.encode(format!("{before}{secret}{behind}"))).into_owned();
                assert!(masked.contains(MASK), "{before}…{behind}: {masked}");
                // Put back what may stand for the mask: no more than the edges of the secret can be read.
                let seen = masked.replace(MASK, "AAAA");
                assert!(!String::from_utf8_lossy(&STANDARD.decode(seen).unwrap_or_default()).contains("orrect-hors"));
            }
        }
    }
}

#[test]
fn short_and_plain_words_are_left_alone_and_blanks_around_a_secret_do_not_hide_it() {
    let some = masks(&["abc", "true", "****", " spaced out \n"]);
    assert_eq!(some.mask("abc true **** is spaced out."), "abc true **** is ***.");
    assert_eq!(format!("{some:?}"), "Masks(2 secrets)");
    assert_eq!(Masks::default().mask("abc"), "abc");
}

#[test]
fn a_key_file_is_masked_as_a_whole_and_line_by_line() {
    let file =
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n";
    let masks = masks(&[file]);
    assert_eq!(masks.mask(&format!("key:\n{file}.")), "key:\n***\n\n\n\n.");
    assert_eq!(masks.mask("see AQEFAASCBKcwggSjAgEAAoIB here"), "see *** here");
    assert_eq!(masks.mask(&json!({"key": file}).to_string()), r#"{"key":"***"}"#);
}

#[test]
fn longer_secrets_win_over_their_beginnings_and_values_are_masked_in_depth() {
    let masks = masks(&["hunter", "hunter2-and-more"]);
    assert_eq!(masks.mask("hunter2-and-more hunter2"), "*** ***2");
    let value = json!({"hunter": ["x hunter y", 7, null], "deep": {"a": "hunter"}});
    assert_eq!(masks.mask_value(value), json!({"hunter": ["x *** y", 7, null], "deep": {"a": "***"}}));
}

#[test]
fn a_stream_lets_go_at_once_what_is_no_secrets_beginning() {
    let masks = masks(&["hunter2"]);
    let mut stream = masks.stream();
    assert_eq!(stream.push("a line\n"), "a line\n");
    assert_eq!(stream.push("it is hunt"), "it is ");
    assert_eq!(stream.push("ing time\n"), "hunting time\n");
    assert_eq!(stream.push("hu\n"), "hu\n", "two letters are shown …");
    assert_eq!(stream.push("nter2 was it\n"), "***\n was it\n".replacen('\n', "", 1), "… and the rest is not");
    assert_eq!(stream.push("hun\n"), "");
    assert_eq!(stream.push("ter2\n"), "***\n\n");
    assert_eq!(stream.push("hunter"), "");
    assert_eq!(stream.finish(), "hunter", "what never became a secret is shown in the end");
    masks.add(&[SecretString::from("later")]);
    assert_eq!(stream.push("later on"), "*** on");
    assert_eq!(stream.push("hun"), "");
    assert!(!stream.push(&"\n".repeat(2 * 1024 * 1024)).is_empty(), "blank lines are not gathered for ever");
}

#[test]
fn names_tell_secrets() {
    for name in ["password", "DB_PASSWORD", "api-key", "aws.secret.access.key", "slack_token", "Authorization"] {
        assert!(is_secret_name(name), "{name}");
    }
    for name in ["region", "host", "tokyo", "rows"] {
        assert!(!is_secret_name(name), "{name}");
    }
    let found = secrets_in("settings", &json!({"token": "t", "plain": "p", "secrets": {"a": ["x", 12345]}}));
    let found: Vec<&str> = found.iter().map(ExposeSecret::expose_secret).collect();
    assert_eq!(found, ["t", "x"], "a number is no secret: it stands in every log");
}

/// Pieces of text with forms of the secrets among them, then cut into pieces and broken into lines. No secret has the
/// masks' own character in it, which would complete it.
fn logs() -> impl Strategy<Value = (Vec<String>, String, Vec<usize>, Vec<usize>)> {
    let secrets = proptest::collection::vec("[a-cé/+ \"]{2}[ -)+-~]{2,14}", 1..4);
    secrets.prop_flat_map(|secrets| {
        let forms: Vec<String> = secrets.iter().flat_map(|secret| forms_of(secret)).collect();
        let piece = prop_oneof![
            3 => proptest::sample::select(forms.clone()),
            1 => proptest::sample::select(forms).prop_map(|form| form.chars().take(form.chars().count() / 2).collect()),
            2 => "[a-c /+=%0-9\n]{0,12}",
        ];
        let text = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        let places = proptest::collection::vec(0..400_usize, 0..24);
        (Just(secrets), text, places.clone(), places)
    })
}

fn cut(text: &str, places: &[usize], with: &str) -> String {
    let mut result = String::new();
    for (index, letter) in text.chars().enumerate() {
        if places.contains(&index) {
            result.push_str(with);
        }
        result.push(letter);
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_window_of_a_log_has_a_secret_in_it_however_it_is_cut((secrets, text, breaks, cuts) in logs()) {
        let known = masks(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
        let broken = cut(&text, &breaks, "\n");
        let mut stream = known.stream();
        let mut written = String::new();
        for piece in cut(&broken, &cuts, "\u{0}").split('\u{0}') {
            written.push_str(&stream.push(piece));
            // Whoever follows the log sees no more than that.
            for secret in &secrets {
                assert_hidden(&written, secret);
            }
        }
        written.push_str(&stream.finish());
        let whole = known.mask(&broken).into_owned();
        for secret in &secrets {
            assert_hidden(&written, secret);
            assert_hidden(&whole, secret);
        }
        let breaks_of = |text: &str| text.matches('\n').count();
        prop_assert_eq!(breaks_of(&written), breaks_of(&broken), "no line is lost");
    }
}
