//! Bytes that a managed host sent. They reach an auditor unchanged and a terminal never.

use std::fmt;

/// Text from outside with every control character made visible, so that it cannot move a cursor, set a title, answer
/// a query or reverse the reading direction. Newline and tab stay.
pub fn visible(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if matches!(c, '\n' | '\t') || !(c.is_control() || is_invisible(c)) {
                out.push(c);
            } else {
                out.extend(c.escape_unicode());
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// As [`visible`], on one line: for table cells, messages and logs.
pub fn visible_line(text: &str) -> String {
    visible(text.as_bytes()).replace('\n', "\\n").replace('\t', "\\t")
}

/// Characters that change how others read, or show nothing: bidirectional controls, zero-width ones, tags.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Output of a command, exactly as the agent sent it.
///
/// There is no `Deref`, no `AsRef<str>` and no `Display`: choose [`exact`](Self::exact) or
/// [`for_terminal`](Self::for_terminal).
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Output(Vec<u8>);

impl Output {
    /// Takes bytes as they came.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Adds bytes as they came.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The bytes, for records, files and pipes.
    pub fn exact(&self) -> &[u8] {
        &self.0
    }

    /// The text with everything hostile made visible.
    pub fn for_terminal(&self) -> String {
        visible(&self.0)
    }
}

/// Length only: output can hold secrets, and `Debug` ends up in logs.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_cannot_write_escape_sequences_to_the_terminal() {
        let output = Output::new(b"ok\n\x1b]0;you are root\x07\x1b[2J\xff\xc2\x9b\xe2\x80\xae".to_vec());
        assert_eq!(output.for_terminal(), "ok\n\\u{1b}]0;you are root\\u{7}\\u{1b}[2J\\xff\\u{9b}\\u{202e}");
        assert_eq!(format!("{output:?}"), "Output(30 bytes)");
    }
}
