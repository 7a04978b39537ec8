//! Whether a record's value fits its topic, and the bytes of it that go into an object. Pure.

use std::collections::BTreeSet;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

/// What a topic's records must be.
#[derive(Debug, Clone, Default)]
pub(super) struct Fit {
    /// The largest value in bytes.
    pub(super) largest: usize,
    /// The names that each record must have, and no others; nothing where they are not known.
    pub(super) columns: Option<BTreeSet<String>>,
}

impl Fit {
    /// The value as text, when it fits.
    ///
    /// # Errors
    /// The reason for its dead letter.
    pub(super) fn check<'a>(&self, value: &'a [u8]) -> Result<&'a str, String> {
        if value.len() > self.largest {
            return Err(format!("it has {} bytes, more than max_record_bytes ({})", value.len(), self.largest));
        }
        let text = std::str::from_utf8(value).map_err(|error| format!("it is not UTF-8: {error}"))?;
        if text.trim_start().is_empty() {
            return Err("it is empty".to_owned());
        }
        let mut parser = serde_json::Deserializer::from_str(text);
        let seen = match &self.columns {
            Some(columns) => parser.deserialize_map(Columns(columns)),
            None => parser.deserialize_map(AnyObject),
        };
        let seen = seen.and_then(|seen| parser.end().map(|()| seen));
        match seen {
            Ok(None) => Ok(text),
            Ok(Some(wrong)) => Err(wrong),
            Err(error) if error.is_data() => Err("it is JSON but no object".to_owned()),
            Err(error) => Err(format!("it is not JSON: {error}")),
        }
    }
}

struct AnyObject;

impl<'de> Visitor<'de> for AnyObject {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Reads an object and says how its names differ from those expected, if they do.
struct Columns<'a>(&'a BTreeSet<String>);

impl<'de> Visitor<'de> for Columns<'_> {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut missing: BTreeSet<&str> = self.0.iter().map(String::as_str).collect();
        let (mut unexpected, mut twice) = (Vec::new(), Vec::new());
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            map.next_value::<IgnoredAny>()?;
            if !missing.remove(name.as_ref()) {
                let known = self.0.contains(name.as_ref());
                if known { &mut twice } else { &mut unexpected }.push(name.into_owned());
            }
        }
        let missing: Vec<String> = missing.into_iter().map(str::to_owned).collect();
        let parts: Vec<String> = [("without", missing), ("with unexpected", unexpected), ("with repeated", twice)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", some_of(&names)))
            .collect();
        Ok((!parts.is_empty()).then(|| format!("its columns are not the topic's: {}", parts.join(", "))))
    }
}

/// The first names, each cut to a length that a reason can bear.
fn some_of(names: &[String]) -> String {
    let shown: Vec<String> =
        names.iter().take(12).map(|name| format!("`{}`", name.chars().take(40).collect::<String>())).collect();
    let more = if names.len() > 12 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Appends a JSON text without the blanks between its tokens; what is compact already is copied as it is.
///
/// Numbers, escapes and the order of names stay as they were written.
pub(super) fn append_compact(json: &str, line: &mut Vec<u8>) {
    let bytes = json.as_bytes();
    let (mut in_string, mut escaped, mut from) = (false, false, 0);
    for (index, &byte) in bytes.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else if byte == b'"' {
            in_string = true;
        } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            line.extend_from_slice(&bytes[from..index]);
            from = index + 1;
        }
    }
    line.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn columns(names: &[&str]) -> Fit {
        Fit { largest: 100, columns: Some(names.iter().map(|name| (*name).to_owned()).collect()) }
    }

    #[test]
    fn reasons_say_what_is_wrong() {
        let fit = columns(&["ind", "country"]);
        let reason = |value: &[u8]| fit.check(value).unwrap_err();
        assert_eq!(reason(b""), "it is empty");
        assert_eq!(reason(b"not json"), "it is not JSON: expected ident at line 1 column 2");
        assert_eq!(reason(b"{\"ind\":1"), "it is not JSON: EOF while parsing an object at line 1 column 8");
        assert_eq!(reason(b"{\"ind\":1,\"country\":1} x"), "it is not JSON: trailing characters at line 1 column 23");
        assert_eq!(reason(b"[1]"), "it is JSON but no object");
        assert_eq!(reason(b"12"), "it is JSON but no object");
        assert_eq!(reason(b"\xff{}"), "it is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0");
        assert_eq!(reason(&[b' '; 101]), "it has 101 bytes, more than max_record_bytes (100)");
        assert_eq!(
            reason(b"{\"ind\":1,\"ind\":2,\"age\":3}"),
            "its columns are not the topic's: without `country`, with unexpected `age`, with repeated `ind`"
        );
        assert!(fit.check(b" {\"country\":\"Chad\",\"ind\":1}\n").is_ok());
        assert!(Fit { largest: 100, columns: None }.check(b"{\"whatever\":[{}]}").is_ok());
    }

    #[test]
    fn compaction_leaves_values_as_they_were_written() {
        let mut line = Vec::new();
        append_compact(
            "{ \"a b\" : 1.50e3 ,\n\t\"\\\" \\\\\" : [ 123456789012345678901234567890 , \" \" ] }\r\n",
            &mut line,
        );
        let expected = "{\"a b\":1.50e3,\"\\\" \\\\\":[123456789012345678901234567890,\" \"]}";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_pretty_becomes_compact(value in json_value()) {
            let mut line = Vec::new();
            append_compact(&serde_json::to_string_pretty(&value).unwrap(), &mut line);
            prop_assert_eq!(String::from_utf8(line).unwrap(), value.to_string());
        }

        #[test]
        fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = columns(&["a"]).check(&bytes);
        }
    }
}
