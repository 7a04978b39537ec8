//! Which topics a sink takes: names with `*` and `?`, or, after a `^`, regular expressions.

use regex::Regex;

/// A pattern of topic names.
#[derive(Debug, Clone)]
pub(super) struct TopicPattern {
    text: String,
    regex: Regex,
}

impl TopicPattern {
    /// Reads a pattern. One that begins with `^` is a regular expression (as in librdkafka), which must match the whole
    /// name; in any other `*` stands for any characters and `?` for one.
    ///
    /// # Errors
    /// What the regular expression lacks.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expression = match text.strip_prefix('^') {
            Some(expression) => format!("^(?:{})$", expression.strip_suffix('$').unwrap_or(expression)),
            None => format!("^{}$", regex::escape(text).replace(r"\*", ".*").replace(r"\?", ".")),
        };
        // The last line of the parser's text says what is wrong; those above it draw the expression.
        let regex = Regex::new(&expression).map_err(|error| {
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })?;
        Ok(Self { text: text.to_owned(), regex })
    }

    fn matches(&self, topic: &str) -> bool {
        self.regex.is_match(topic)
    }
}

/// Why topics and patterns do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TopicError {
    #[error(
        "`topics: {pattern}` matches none of the topics {found}; a topic that these credentials may not describe looks \
         missing too"
    )]
    NothingMatches { pattern: String, found: String },
}

/// The topics that any pattern matches, in order of their names. Each pattern must match one at least.
pub(super) fn select(patterns: &[TopicPattern], topics: &[&str]) -> Result<Vec<String>, TopicError> {
    for pattern in patterns {
        if !topics.iter().any(|topic| pattern.matches(topic)) {
            return Err(TopicError::NothingMatches { pattern: pattern.text.clone(), found: some_of(topics) });
        }
    }
    let mut selected: Vec<String> = topics
        .iter()
        .filter(|topic| patterns.iter().any(|pattern| pattern.matches(topic)))
        .map(|topic| (*topic).to_owned())
        .collect();
    selected.sort();
    selected.dedup();
    Ok(selected)
}

/// The first few names, for a message.
fn some_of(topics: &[&str]) -> String {
    const SHOWN: usize = 8;
    if topics.is_empty() {
        return "(there are none)".to_owned();
    }
    let shown = topics.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if topics.len() > SHOWN { format!("{shown}, … ({} in all)", topics.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: [&str; 4] = ["0e35.pin", "0e35.geo", "0e35.user", "other.pin"];

    fn patterns(texts: &[&str]) -> Vec<TopicPattern> {
        texts.iter().map(|text| TopicPattern::parse(text).unwrap()).collect()
    }

    #[test]
    fn stars_and_regular_expressions_match_whole_names() {
        assert_eq!(select(&patterns(&["0e35.*"]), &TOPICS).unwrap(), ["0e35.geo", "0e35.pin", "0e35.user"]);
        assert_eq!(select(&patterns(&["^0e35[.](pin|geo)"]), &TOPICS).unwrap(), ["0e35.geo", "0e35.pin"]);
        assert_eq!(select(&patterns(&["0e35.pin", "*.pin"]), &TOPICS).unwrap(), ["0e35.pin", "other.pin"]);
        assert!(select(&patterns(&["0e3"]), &TOPICS).is_err());
        assert!(select(&patterns(&["0e35?pin"]), &["0e35xpin"]).is_ok());
        assert!(select(&patterns(&["0e35.pin"]), &["0e35xpin"]).is_err());
    }

    #[test]
    fn a_pattern_without_a_topic_is_named() {
        let nothing = select(&patterns(&["0e36.*"]), &TOPICS).unwrap_err().to_string();
        assert!(nothing.starts_with("`topics: 0e36.*` matches none of the topics 0e35.pin, 0e35.geo"), "{nothing}");
    }

    #[test]
    fn a_broken_expression_says_what_it_lacks() {
        assert_eq!(TopicPattern::parse("^(pin").unwrap_err(), "unclosed group");
    }
}
