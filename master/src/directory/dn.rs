//! Distinguished names (RFC 4514), read and compared as the directory compares them.
//!
//! Two spellings of one entry must be one entry here, or a membership loop would not end and a level would be missed;
//! two entries must never become one, or a level would be given away. So a name is parsed, never compared as text.

use std::cmp::Ordering;
use std::fmt;

/// A distinguished name. Equality and order ignore case, spaces that do not count, and the way of escaping.
#[derive(Clone, Debug)]
pub(super) struct Dn {
    text: String,
    rdns: Vec<Rdn>,
}

/// One level of the tree: usually one pair, sorted when there are more (`cn=a+sn=b`).
type Rdn = Vec<(String, Value)>;

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Value {
    /// Prepared for comparison: lower case, no outer spaces, inner runs of spaces as one.
    Text(String),
    /// `#04…`: BER in hex, as written, lower case.
    Ber(String),
}

/// A text that is not a distinguished name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a distinguished name: {why}")]
pub(super) struct DnError {
    text: String,
    why: &'static str,
}

impl Dn {
    /// # Errors
    ///
    /// What is wrong with `text`; the empty name is wrong too.
    pub(super) fn parse(text: &str) -> Result<Self, DnError> {
        let error = |why| DnError { text: text.chars().take(300).collect(), why };
        let mut rdns = vec![];
        for rdn in split_unescaped(text, ',') {
            let mut pairs =
                split_unescaped(rdn, '+').into_iter().map(parse_pair).collect::<Result<Vec<_>, _>>().map_err(error)?;
            pairs.sort();
            rdns.push(pairs);
        }
        Ok(Self { text: text.to_owned(), rdns })
    }

    /// The name as it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The levels of the tree between this entry and `base`, nearest to this entry first, when every one of them is a
    /// single pair of type and text value.
    pub(super) fn below(&self, base: &Self) -> Option<Vec<(&str, &str)>> {
        let own = self.rdns.strip_suffix(base.rdns.as_slice())?;
        own.iter()
            .map(|rdn| match rdn.as_slice() {
                [(kind, Value::Text(value))] => Some((kind.as_str(), value.as_str())),
                _ => None,
            })
            .collect()
    }
}

impl PartialEq for Dn {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Eq for Dn {}

impl PartialOrd for Dn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Dn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rdns.cmp(&other.rdns)
    }
}

impl fmt::Display for Dn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| {
        let splits = c == separator && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    })
    .collect()
}

fn parse_pair(text: &str) -> Result<(String, Value), &'static str> {
    let (kind, value) = text.split_once('=').ok_or("a part has no '='")?;
    let kind = kind.trim().to_ascii_lowercase();
    if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
        return Err("a part has no attribute type before '='");
    }
    let value = trim_unescaped(value);
    let value = match value.strip_prefix('#') {
        Some(hex) if !hex.is_empty() && hex.len() % 2 == 0 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Value::Ber(hex.to_ascii_lowercase())
        }
        Some(_) => return Err("a value after '#' is not hex"),
        None => Value::Text(prepare(&unescape(value)?)),
    };
    Ok((short_kind(kind), value))
}

/// Drops the spaces around a value, but not the one that a backslash makes part of it.
fn trim_unescaped(value: &str) -> &str {
    let value = value.trim_start_matches(' ');
    let trimmed = value.trim_end_matches(' ');
    let backslashes = trimmed.len() - trimmed.trim_end_matches('\\').len();
    let keep = if backslashes % 2 == 1 { trimmed.len() + 1 } else { trimmed.len() };

    value.get(..keep).unwrap_or(value)
}

fn unescape(value: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                let first = rest.next().ok_or("a value ends in a backslash")?;
                match first.to_digit(16) {
                    Some(high) => {
                        let low = rest.next().and_then(|c| c.to_digit(16)).ok_or("a backslash has one hex digit")?;
                        bytes.push(u8::try_from(high * 16 + low).map_err(|_| "a backslash has no byte")?);
                    }
                    None if " \"#+,;<=>\\".contains(first) => push(&mut bytes, first),
                    None => return Err("a backslash is before a character that needs none"),
                }
            }
            '"' | ';' | '\0' => return Err("a value has a character that must be escaped"),
            plain => push(&mut bytes, plain),
        }
    }
    String::from_utf8(bytes).map_err(|_| "a value is not UTF-8")
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What `caseIgnoreMatch` compares: lower case, outer spaces gone, inner runs of spaces as one.
fn prepare(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The types that directories put into names have long names and numbers too.
fn short_kind(kind: String) -> String {
    let short = match kind.as_str() {
        "commonname" | "2.5.4.3" => "cn",
        "organizationalunitname" | "2.5.4.11" => "ou",
        "organizationname" | "2.5.4.10" => "o",
        "countryname" | "2.5.4.6" => "c",
        "domaincomponent" | "0.9.2342.19200300.100.1.25" => "dc",
        "userid" | "0.9.2342.19200300.100.1.1" => "uid",
        _ => return kind,
    };
    short.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).unwrap()
    }

    #[test]
    fn spellings_of_one_entry_are_one_entry() {
        let plain = dn("cn=NOC Staff,ou=Managed Servers,dc=noc,dc=example");
        for same in [
            "CN=noc staff,OU=MANAGED SERVERS,DC=NOC,DC=Example",
            "cn = NOC Staff , ou = Managed Servers , dc = noc , dc = example",
            "cn=NOC   Staff,ou=Managed Servers,dc=noc,dc=example",
            "cn=NOC\\20Staff,ou=\\4danaged Servers,dc=noc,dc=example",
            "cn=\\ NOC Staff\\ ,ou=Managed Servers,dc=noc,dc=example",
            "2.5.4.3=NOC Staff,organizationalUnitName=Managed Servers,domainComponent=noc,dc=example",
        ] {
            assert_eq!(dn(same), plain, "{same}");
        }
    }

    #[test]
    fn different_entries_stay_different() {
        let plain = dn("cn=L3,ou=web01,dc=example");
        for other in [
            "cn=L3,dc=example",
            "cn=L3,ou=web01,ou=x,dc=example",
            "cn=L3\\,ou=web01,dc=example",
            "cn=L 3,ou=web01,dc=example",
            "ou=L3,ou=web01,dc=example",
            "cn=L3+ou=web01,dc=example",
            "cn=#4c33,ou=web01,dc=example",
            "cn=\\#4c33,ou=web01,dc=example",
        ] {
            assert_ne!(dn(other), plain, "{other}");
        }
        assert_ne!(dn("cn=#4c33"), dn("cn=\\#4c33"));
    }

    #[test]
    fn the_pairs_of_one_level_have_no_order() {
        assert_eq!(dn("cn=a+sn=b,dc=example"), dn("SN=B + CN=A,dc=example"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in
            ["", "alice", "cn=a,", ",cn=a", "=a", "cn=a\\", "cn=a\\4", "cn=a\\zz", "cn=\"a\"", "cn=a;dc=b", "cn=#4"]
        {
            assert!(Dn::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Dn::parse("cn=\\ff\\fe").is_err(), "not UTF-8");
    }

    #[test]
    fn the_place_below_a_base_is_read_level_by_level() {
        let base = dn("ou=Managed Servers,dc=noc,dc=example");

        let rung = dn("cn=L3,ou=Web01,ou=contoso,OU=managed servers,dc=NOC,dc=example");
        assert_eq!(rung.below(&base), Some(vec![("cn", "l3"), ("ou", "web01"), ("ou", "contoso")]));
        assert_eq!(dn("cn=L3,dc=noc,dc=example").below(&base), None);
        assert_eq!(dn("cn=L3+sn=x,ou=Managed Servers,dc=noc,dc=example").below(&base), None);
        assert_eq!(base.below(&base), Some(vec![]));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_every_escaped_value_comes_back(text in ".{0,40}", value in "[a-z ,+\"\\\\<>;=#é]{1,20}") {
            let _parsed = Dn::parse(&text).is_ok();

            let escaped = ldap3::dn_escape(value.as_str());
            let name = dn(&format!("cn={escaped},dc=example"));
            let base = dn("dc=example");
            assert_eq!(name.below(&base), Some(vec![("cn", prepare(&value).as_str())]), "{escaped}");
        }
    }
}
