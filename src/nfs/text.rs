//! Makes text from a caller, a server or an export safe for a message.

use std::borrow::Cow;

/// The most characters of a caller's text in a message. A request may contain megabytes.
const EXCERPT: usize = 200;

/// The format of output lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The beginning of a text, escaped so that it cannot affect the terminal or the log of the reader.
pub fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).collect::<String>().escape_debug().to_string()
}

/// The text on one line: control characters and Unicode line separators are escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let unsafe_in_line = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(unsafe_in_line) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match unsafe_in_line(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_escaped() {
        assert_eq!(excerpt("a\n\u{1b}b"), "a\\n\\u{1b}b");
        assert_eq!(excerpt(&"x".repeat(1 << 20)).len(), EXCERPT);
    }
}
