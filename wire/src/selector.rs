//! Which servers a technician means: `contoso/web01`, `contoso/*`, `*/db*`, comma lists, `!` to exclude.

use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::name::HostName;

/// The longest selector, in bytes.
pub const MAX_SELECTOR: usize = 4096;

/// A selector that is not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// A part that is no pattern.
    #[error("{0:?} is no server pattern: write CUSTOMER/HOST with * for any text, such as contoso/* or */db*")]
    Pattern(String),
    /// Nothing is included.
    #[error("the selector includes nothing; name at least one server or pattern without !")]
    Nothing,
    /// Longer than [`MAX_SELECTOR`].
    #[error("the selector is longer than {MAX_SELECTOR} bytes")]
    TooLong,
    /// Tags are not built.
    #[error("{0:?}: tags are not available in this version; name servers or patterns")]
    Tag(String),
}

/// A parsed selector. Later parts of a list do not undo `!` parts: excluded is excluded.
#[derive(Clone, Debug)]
pub struct Selector {
    text: String,
    include: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
}

impl Selector {
    /// Whether `host` is meant.
    pub fn matches(&self, host: &HostName) -> bool {
        let name = host.to_string();
        let any = |globs: &[GlobMatcher]| globs.iter().any(|glob| glob.is_match(&name));
        any(&self.include) && !any(&self.exclude)
    }

    /// The selector as it was typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one server that it names without any pattern, if it does.
    pub fn literal(&self) -> Option<HostName> {
        self.text.parse().ok()
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong);
        }
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        for part in text.split(',').map(|part| part.trim_matches(' ')) {
            match part.strip_prefix('!') {
                Some(excluded) => exclude.push(pattern(excluded)?),
                None => include.push(pattern(part)?),
            }
        }
        if include.is_empty() {
            return Err(SelectorError::Nothing);
        }
        Ok(Self { text: text.to_owned(), include, exclude })
    }
}

fn pattern(text: &str) -> Result<GlobMatcher, SelectorError> {
    let bad = || SelectorError::Pattern(text.chars().take(80).collect());
    if text.starts_with('@') {
        return Err(SelectorError::Tag(text.chars().take(80).collect()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_*?".contains(c);
    let (customer, host) = text.split_once('/').ok_or_else(bad)?;
    if customer.is_empty() || host.is_empty() || !customer.chars().chain(host.chars()).all(allowed) {
        return Err(bad());
    }
    let glob = GlobBuilder::new(text).literal_separator(true).build().map_err(|_| bad())?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_what_its_table_says() {
        for (selector, host, meant) in [
            ("contoso/web01", "contoso/web01", true),
            ("contoso/web01", "contoso/web011", false),
            ("contoso/*", "contoso/db01", true),
            ("contoso/*", "fabrikam/db01", false),
            ("*/db*", "fabrikam/db07", true),
            ("*/*", "a/b", true),
            ("contoso/*,!contoso/db*", "contoso/db01", false),
            ("!contoso/db*,contoso/*", "contoso/db01", false),
            ("contoso/web?1", "contoso/web01", true),
            ("contoso/web01, fabrikam/*", "fabrikam/mail01", true),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&host.parse().unwrap()), meant, "{selector} {host}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in
            ["", "web01", "*", "/", "a/", "!a/b", "@prod", "a/b/c", "a/[bc]", "a/{b,c}", "A/b", "a/b\n", "a/**/b"]
        {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }
}
