//! The forms in which a secret turns up: as it is, in base64 at any offset, URL-encoded, escaped in JSON, in hex.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, PAD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

use super::SHORTEST;

/// What encoders leave as it is: RFC 3986's unreserved characters; JavaScript's `encodeURIComponent` some more.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const COMPONENT: AsciiSet = UNRESERVED.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
/// Python's `quote` leaves slashes.
const WITH_SLASHES: AsciiSet = UNRESERVED.remove(b'/');
/// The user part of a URL, as the URL standard encodes it.
const USER: AsciiSet = CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'=')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'|');
/// The path and the query of a URL, as the URL standard encodes them.
const PATH: AsciiSet =
    CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}');
const QUERY: AsciiSet = CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\'');

/// Every form of a secret, each once, without the line breaks that a log may have anywhere.
pub(super) fn of(secret: &str) -> BTreeSet<String> {
    let mut forms = BTreeSet::from([secret.to_owned()]);
    base64s(secret, &mut forms);
    percents(secret, &mut forms);
    escapes(secret, &mut forms);
    for upper in [false, true] {
        forms.insert(hex(secret, "", upper));
        forms.insert(hex(secret, "%", upper));
        forms.insert(hex(secret, "\\x", upper));
    }
    let without_breaks = forms.into_iter().map(|form| form.replace(['\n', '\r'], ""));
    without_breaks.filter(|form| form.chars().count() >= SHORTEST).collect()
}

/// In base64 of a longer text the secret starts at one of three offsets within a group of three bytes. The characters
/// that it alone decides are the same whatever stands around it.
fn base64s(secret: &str, forms: &mut BTreeSet<String>) {
    for alphabet in [alphabet::STANDARD, alphabet::URL_SAFE] {
        let plain = GeneralPurpose::new(&alphabet, NO_PAD);
        for offset in 0..3 {
            let mut text = vec![0; offset];
            text.extend_from_slice(secret.as_bytes());
            let encoded = plain.encode(&text);
            let (first, last) = ((offset * 8).div_ceil(6), text.len() * 8 / 6);
            if let Some(decided) = encoded.get(first..last) {
                forms.insert(decided.to_owned());
                // Base64 within a URL or JSON.
                forms.insert(utf8_percent_encode(decided, &UNRESERVED).to_string());
                forms.insert(decided.replace('/', "\\/"));
            }
        }
        forms.insert(plain.encode(secret));
        forms.insert(GeneralPurpose::new(&alphabet, PAD).encode(secret));
    }
}

fn percents(secret: &str, forms: &mut BTreeSet<String>) {
    let mut encoded: Vec<String> = [&UNRESERVED, &COMPONENT, &WITH_SLASHES, &USER, &PATH, &QUERY, NON_ALPHANUMERIC]
        .into_iter()
        .map(|set| utf8_percent_encode(secret, set).to_string())
        .collect();
    encoded.push(form_urlencoded::byte_serialize(secret.as_bytes()).collect());
    // Python's `quote_plus` and `urlencode`.
    encoded.push(utf8_percent_encode(secret, &UNRESERVED).to_string().replace("%20", "+"));
    for text in encoded {
        // Encoded once more, as an address within an address is.
        forms.insert(utf8_percent_encode(&text, &UNRESERVED).to_string());
        forms.insert(lower_hex(&text));
        forms.insert(text);
    }
}

/// `%2F` as `%2f`; letters that no encoder made stay.
fn lower_hex(text: &str) -> String {
    let mut lower = String::with_capacity(text.len());
    let mut hex_left = 0;
    for letter in text.chars() {
        lower.push(if hex_left > 0 { letter.to_ascii_lowercase() } else { letter });
        hex_left = if letter == '%' { 2 } else { usize::saturating_sub(hex_left, 1) };
    }
    lower
}

/// As JSON strings have it, with and without everything that is not ASCII; as Rust's and Python's `repr` do; and JSON
/// within JSON.
fn escapes(secret: &str, forms: &mut BTreeSet<String>) {
    let json = |text: &str| {
        let quoted = serde_json::Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let once = json(secret);
    forms.insert(once.replace('/', "\\/"));
    for upper in [false, true] {
        let ascii = ascii(&once, upper);
        forms.insert(json(&ascii));
        forms.insert(ascii);
    }
    forms.insert(json(&once));
    forms.insert(once);
    forms.insert(secret.escape_debug().to_string());
    forms.insert(secret.replace('\\', "\\\\").replace('\'', "\\'"));
    forms.insert(secret.replace('\'', "'\\''")); // as the shell has it between single quotes
}

fn ascii(text: &str, upper: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii() {
            escaped.push(letter);
            continue;
        }
        for unit in letter.encode_utf16(&mut [0; 2]) {
            let _ = if upper { write!(escaped, "\\u{unit:04X}") } else { write!(escaped, "\\u{unit:04x}") };
        }
    }
    escaped
}

fn hex(secret: &str, before: &str, upper: bool) -> String {
    let mut text = String::with_capacity(secret.len() * 2);
    for byte in secret.bytes() {
        text.push_str(before);
        let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
    }
    text
}
