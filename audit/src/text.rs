//! Text from outside: kept byte for byte, cut with a mark where it is too long, never trusted to be UTF-8.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reeve_wire::output::visible;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What ends a text that was cut.
const CUT: &str = "…";

/// How many bytes of JSON one byte may take: as an escape, or in base64.
const fn json_cost(byte: u8) -> usize {
    match byte {
        0..0x20 => 6,
        b'"' | b'\\' | 0x80.. => 2,
        _ => 1,
    }
}

/// Bytes that are usually text. In a record they are a JSON string, or `{"b64": …}` where they are not UTF-8.
///
/// There is no `Display`: a terminal gets [`shown`](Self::shown).
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Text(Vec<u8>);

impl Text {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text; what is not UTF-8 as U+FFFD.
    pub fn to_lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// The text on one line for a terminal, with everything hostile made visible.
    pub fn shown(&self) -> String {
        visible(&self.0).replace('\n', "\\n").replace('\t', "\\t")
    }

    /// The beginning that takes at most `limit` bytes in JSON, and a mark that says so, cut between characters.
    #[must_use]
    pub fn cut(mut self, limit: usize) -> Self {
        let mut cost = 0_usize;
        let fits = self.0.iter().take_while(|byte| {
            cost = cost.saturating_add(json_cost(**byte));
            cost <= limit
        });
        let mut end = fits.count();
        if end == self.0.len() {
            return self;
        }
        while end > 0 && self.0.get(end).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {
            end -= 1;
        }
        self.0.truncate(end);
        self.0.extend_from_slice(CUT.as_bytes());
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"b64\": …}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::from(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let Some(("b64", encoded)) = map.next_entry::<&str, String>()? else {
            return Err(de::Error::custom("expected the one field b64"));
        };
        if map.next_key::<&str>()?.is_some() {
            return Err(de::Error::custom("expected no field but b64"));
        }
        STANDARD.decode(encoded).map(Text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back_as_they_went_in() {
        for bytes in [b"".as_slice(), b"uptime", "naïve \u{1b}[2J \"\n".as_bytes(), b"\xff\x00\xfe"] {
            let json = serde_json::to_string(&Text::from(bytes)).unwrap();
            assert_eq!(serde_json::from_str::<Text>(&json).unwrap().as_bytes(), bytes, "{json}");
        }
        assert_eq!(serde_json::to_string(&Text::from(b"\xff".as_slice())).unwrap(), r#"{"b64":"/w=="}"#);
        for bad in [r#"{"b64":"/w==","b64":"/w=="}"#, r#"{"c":"/w=="}"#, "{}", "1", r#"{"b64":"!"}"#] {
            assert!(serde_json::from_str::<Text>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cut_text_says_so_and_splits_no_character() {
        assert_eq!(Text::from("abc").cut(3), Text::from("abc"));
        assert_eq!(Text::from("abcd").cut(3), Text::from("abc…"));
        assert_eq!(Text::from("aéé").cut(7), Text::from("aé…"));
        assert_eq!(Text::from("\u{1}\u{1}\u{1}").cut(13), Text::from("\u{1}\u{1}…"));
    }
}
