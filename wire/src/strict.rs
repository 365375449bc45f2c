//! Strict reading of signed JSON.
//!
//! Two readers that disagree about one document are a hole, so everything that lets readers disagree is refused:
//! duplicate fields, floats, integers above 2^53, depth over 8, trailing bytes. On top of that each document type
//! refuses unknown and missing fields: `deny_unknown_fields`, [`present`] for fields that may be null, and
//! [`Unused`] for fields that must be. What is signed or sent has one spelling: [`exact_from_slice`].

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 8;

/// The largest integer: above it JSON readers with doubles disagree.
pub const MAX_INTEGER: u64 = 1 << 53;

/// The most bytes that the reason why a document is not valid may have.
const MAX_WHY: usize = 240;

/// A document that is not strict JSON of the expected shape. It says where and why; a name of the document's own in
/// it is made visible and cut short, since the words go to logs, records and terminals.
#[derive(Debug, thiserror::Error)]
#[error("not a valid document: {}", why(.0))]
pub struct NotStrict(#[from] serde_json::Error);

fn why(error: &serde_json::Error) -> String {
    let mut why = crate::output::visible_line(&error.to_string());
    if why.len() > MAX_WHY {
        why.truncate(why.floor_char_boundary(MAX_WHY));
        why.push('…');
    }
    why
}

/// Reads `bytes` as `T`.
///
/// # Errors
/// Anything that this module's rules or the type refuse.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotStrict> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Checked { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(serde_json::from_slice(bytes)?)
}

/// Reads `bytes` as `T`, and refuses whatever `T` itself would write in another way, but for the order of fields and
/// white space: a serde struct also reads from an array, and some values have more than one spelling.
///
/// # Errors
/// As [`from_slice`], and for a document that is spelled in another way than its type's own.
pub fn exact_from_slice<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, NotStrict> {
    let value: T = from_slice(bytes)?;
    let (own, given): (_, serde_json::Value) = (serde_json::to_value(&value)?, serde_json::from_slice(bytes)?);
    if own == given {
        return Ok(value);
    }
    Err(serde_json::Error::custom("it is spelled in another way than documents of its kind are").into())
}

/// Reads a field that may be null but must be there; serde's own `Option` accepts a missing one.
///
/// # Errors
/// What `T` refuses.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// A field whose feature is not built: present, and null. Anything else is refused.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Unused;

impl Serialize for Unused {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self)
    }
}

/// The format version that this build reads and writes. Another one is refused: there is no fallback.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct V1;

impl Serialize for V1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for V1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => {
                Err(D::Error::custom(format_args!("version {other} is not supported; this build reads version 1")))
            }
        }
    }
}

/// Walks a document and keeps nothing.
#[derive(Clone, Copy)]
struct Checked {
    depth: usize,
}

impl Checked {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        if number > MAX_INTEGER {
            return Err(E::custom("an integer above 2^53"));
        }
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_u64(number.unsigned_abs())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("a floating-point number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while items.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(field) = fields.next_key::<String>()? {
            if !seen.insert(field) {
                return Err(A::Error::custom("a field that stands twice"));
            }
            fields.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        v: V1,
        #[serde(deserialize_with = "present")]
        name: Option<String>,
        later: Unused,
    }

    #[test]
    fn a_document_is_read_only_when_every_reader_would_agree() {
        let read = |text: &str| from_slice::<Sample>(text.as_bytes());
        assert_eq!(read(r#"{"v":1,"name":null,"later":null}"#).unwrap().name, None);
        assert!(read(r#"{"v":1,"name":"a","later":null}"#).is_ok());
        for bad in [
            r#"{"v":2,"name":null,"later":null}"#,
            r#"{"v":1,"later":null}"#,
            r#"{"v":1,"name":null}"#,
            r#"{"v":1,"name":null,"later":1}"#,
            r#"{"v":1,"name":null,"later":null,"more":1}"#,
            r#"{"v":1,"name":"a","name":"b","later":null}"#,
            r#"{"v":1.0,"name":null,"later":null}"#,
            r#"{"v":1,"name":null,"later":null} x"#,
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_reason_shows_no_raw_bytes_of_the_document() {
        let hostile = format!(r#"{{"v":1,"name":null,"later":null,"\u001b]0;x\u0007{}":1}}"#, "é".repeat(4000));
        let why = from_slice::<Sample>(hostile.as_bytes()).unwrap_err().to_string();
        assert!(why.contains("unknown field"), "{why}");
        assert!(!why.contains(char::is_control) && why.len() < 300, "{why}");
    }

    #[test]
    fn a_document_has_one_spelling() {
        let array = br#"[1,"a",null]"#;
        assert!(from_slice::<Sample>(array).is_ok(), "what a serde struct reads by itself");
        assert!(exact_from_slice::<Sample>(array).is_err());
        let in_another_order = br#" { "later":null, "name":"\u0061", "v":1 } "#;
        assert_eq!(exact_from_slice::<Sample>(in_another_order).unwrap().name.as_deref(), Some("a"));

        use crate::request::Text;
        let text = |json: &str| exact_from_slice::<Vec<Text>>(json.as_bytes());
        assert_eq!(text(r#"["a",{"b64":"/w=="}]"#).unwrap(), [Text::from("a"), Text(vec![0xff])]);
        for other in [r#"[{"b64":"YQ=="}]"#, r#"[["/w=="]]"#] {
            assert!(text(other).is_err(), "{other}");
        }
    }

    #[test]
    fn floats_big_integers_duplicates_and_depth_are_refused_anywhere() {
        let read = |text: &str| from_slice::<serde_json::Value>(text.as_bytes());
        assert!(read("[9007199254740992,-9007199254740992]").is_ok());
        for bad in ["[1.5]", "[1e3]", "[9007199254740993]", "[-9007199254740993]", r#"[{"a":1,"a":1}]"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&format!("{}{}", "[".repeat(8), "]".repeat(8))).is_ok());
        assert!(read(&format!("{}{}", "[".repeat(9), "]".repeat(9))).is_err());
        assert!(read(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))).is_err());
    }
}
