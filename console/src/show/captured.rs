//! Output that waits to be told as JSON: in memory while it is small, beyond that in a file without a name.

use std::io::{self, Read as _, Seek as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::SpooledTempFile;

use super::text::whole;

/// So much of one stream is kept in memory, in bytes.
const IN_MEMORY: usize = 64 * 1024;
/// Read back in pieces of so many bytes, a multiple of three so that base64 is not cut.
const PIECE: usize = 48 * 1024;

/// One stream of one server.
#[derive(Debug)]
pub struct Captured {
    file: SpooledTempFile,
    length: u64,
    text: bool,
    /// The start of a character that the next bytes may make whole.
    unfinished: Vec<u8>,
}

impl Default for Captured {
    fn default() -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), length: 0, text: true, unfinished: Vec::new() }
    }
}

impl Captured {
    /// Keeps `bytes`.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.text {
            self.unfinished.extend_from_slice(bytes);
            let tail = self.unfinished.split_off(whole(&self.unfinished));
            self.text = std::str::from_utf8(&self.unfinished).is_ok();
            self.unfinished = tail;
        }
        Ok(())
    }

    /// Whether there is nothing.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Writes `,"NAME":"text"`, or `,"NAME":null,"NAME_base64":"..."` where the bytes are not UTF-8.
    ///
    /// # Errors
    /// When it cannot be read back, or `out` takes no more.
    pub fn write_json_field(&mut self, out: &mut impl Write, name: &str) -> io::Result<()> {
        self.file.rewind()?;
        let text = self.text && self.unfinished.is_empty();
        if text {
            write!(out, ",\"{name}\":\"")?;
        } else {
            write!(out, ",\"{name}\":null,\"{name}_base64\":\"")?;
        }
        let mut held = Vec::with_capacity(PIECE);
        loop {
            let room = PIECE.saturating_sub(held.len());
            let read = (&mut self.file).take(u64::try_from(room).unwrap_or_default()).read_to_end(&mut held)?;
            if held.is_empty() {
                break;
            }
            let last = read == 0;
            held = if text { put_text(out, held)? } else { put_base64(out, held, last)? };
            if last {
                break;
            }
        }
        out.write_all(b"\"")
    }
}

/// Writes the whole characters of `held` as the inside of a JSON string, and gives back what is left.
fn put_text(out: &mut impl Write, mut held: Vec<u8>) -> io::Result<Vec<u8>> {
    let tail = held.split_off(whole(&held));
    let quoted = serde_json::to_string(&String::from_utf8_lossy(&held)).map_err(io::Error::from)?;
    let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    out.write_all(inside.as_bytes())?;
    Ok(tail)
}

fn put_base64(out: &mut impl Write, mut held: Vec<u8>, last: bool) -> io::Result<Vec<u8>> {
    let cut = if last { held.len() } else { held.len() / 3 * 3 };
    let tail = held.split_off(cut);
    out.write_all(BASE64.encode(held).as_bytes())?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&[u8]]) -> serde_json::Value {
        let mut captured = Captured::default();
        pieces.iter().for_each(|piece| captured.push(piece).unwrap());
        let mut json = b"{\"x\":0".to_vec();
        captured.write_json_field(&mut json, "stdout").unwrap();
        json.push(b'}');
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn text_is_told_as_text_whatever_the_pieces() {
        assert_eq!(told(&[])["stdout"], "");
        let odd = "h\u{e9} \u{1f980} \"quoted\" \u{1b}[2J\n";
        for step in 1..=odd.len() {
            let value = told(&odd.as_bytes().chunks(step).collect::<Vec<_>>());
            assert_eq!(value["stdout"], odd, "in pieces of {step}");
            assert_eq!(value.get("stdout_base64"), None);
        }
    }

    #[test]
    fn what_is_no_text_is_told_in_base64() {
        for bytes in [&b"\xff"[..], b"ok \xc3", b"\xc3\x28 later text", b"\xed\xa0\x80"] {
            let value = told(&[bytes]);
            assert_eq!(value["stdout"], serde_json::Value::Null);
            assert_eq!(BASE64.decode(value["stdout_base64"].as_str().unwrap()).unwrap(), bytes);
        }
    }

    #[test]
    fn megabytes_come_back_whole_and_do_not_stay_in_memory() {
        let text = "0123456789 \u{20ac}\n".repeat(200_000);
        let mut captured = Captured::default();
        text.as_bytes().chunks(4097).for_each(|piece| captured.push(piece).unwrap());
        assert!(captured.file.is_rolled());
        let mut json = b"{\"x\":0".to_vec();
        captured.write_json_field(&mut json, "stdout").unwrap();
        json.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert!(value["stdout"].as_str().unwrap() == text);

        let bytes: Vec<u8> = (0..=255).cycle().take(1_000_001).collect();
        let value = told(&bytes.chunks(4097).collect::<Vec<_>>());
        assert!(BASE64.decode(value["stdout_base64"].as_str().unwrap()).unwrap() == bytes);
    }
}
