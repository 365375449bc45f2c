//! Output of servers in pieces, made visible or cut into lines, whatever the pieces are.

use reeve_wire::output::visible;

use super::Manner;

/// A line that is longer is shown in pieces: a server must not make us hold an endless one.
const LONGEST_LINE: usize = 64 * 1024;

/// Makes output visible piece by piece: a character that two pieces share is held until it is whole.
#[derive(Clone, Debug, Default)]
pub struct Escaper {
    held: Vec<u8>,
}

impl Escaper {
    /// Nothing held.
    pub const fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// The next piece, as far as its characters are whole.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let tail = self.held.split_off(whole(&self.held));
        let shown = visible(&self.held).into_bytes();
        self.held = tail;
        shown
    }

    /// What is left: a character that never became whole.
    pub fn finish(&mut self) -> Vec<u8> {
        visible(&std::mem::take(&mut self.held)).into_bytes()
    }
}

/// How many bytes there are before a character that may still become whole.
pub(super) fn whole(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let tail = bytes.get(at..).unwrap_or_default();
        let unfinished = std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none());
        if unfinished && tail.first().is_some_and(|first| *first >= 0xc2) {
            return at;
        }
    }
    bytes.len()
}

/// Cuts output into lines with a prefix before each, so that servers side by side can be told apart.
#[derive(Clone, Debug)]
pub struct Lines {
    prefix: String,
    manner: Manner,
    held: Vec<u8>,
}

impl Lines {
    /// Lines that begin with `prefix`.
    pub fn new(prefix: &str, manner: Manner) -> Self {
        Self { prefix: prefix.to_owned(), manner, held: Vec::new() }
    }

    /// The lines that `bytes` make whole.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.held.extend_from_slice(end);
                    self.put_line(&mut shown);
                }
                None => self.held.extend_from_slice(piece),
            }
            while self.held.len() > LONGEST_LINE {
                let most = self.held.get(..LONGEST_LINE).map_or(self.held.len(), whole);
                let rest = self.held.split_off(most);
                self.put_line(&mut shown);
                self.held = rest;
            }
        }
        shown
    }

    /// The last line, where it has no end.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        if !self.held.is_empty() {
            self.put_line(&mut shown);
        }
        shown
    }

    fn put_line(&mut self, shown: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.held);
        shown.extend_from_slice(self.prefix.as_bytes());
        match self.manner {
            Manner::Exact => shown.extend_from_slice(&line),
            Manner::Visible => shown.extend_from_slice(visible(&line).as_bytes()),
        }
        shown.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hostile and harmless, with characters of every length and bytes that are none.
    const OUTPUT: &[u8] = b"ok\n\x1b]0;you are root\x07\x1b[2J\xff h\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x80\xe2\x80\xae\xc2\x9b\xe2\x82\n\xf0\x9f";

    fn in_pieces(bytes: &[u8], step: usize) -> Vec<u8> {
        let mut escaper = Escaper::new();
        let mut shown: Vec<u8> = bytes.chunks(step).flat_map(|piece| escaper.push(piece)).collect();
        shown.extend(escaper.finish());
        shown
    }

    #[test]
    fn output_is_made_visible_the_same_whatever_the_pieces() {
        let whole = visible(OUTPUT).into_bytes();
        for step in 1..=OUTPUT.len() {
            let shown = in_pieces(OUTPUT, step);
            assert_eq!(String::from_utf8_lossy(&shown), String::from_utf8_lossy(&whole), "in pieces of {step}");
        }
        assert!(!whole.contains(&0x1b) && std::str::from_utf8(&whole).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_in_any_pieces_reach_a_terminal_raw(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..7) {
            let shown = String::from_utf8(in_pieces(&bytes, step)).unwrap();
            prop_assert_eq!(&shown, &visible(&bytes));
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }

    #[test]
    fn a_character_is_held_and_no_more() {
        let mut escaper = Escaper::new();
        assert_eq!(escaper.push(b"a\xf0\x9f\xa6"), b"a");
        assert_eq!(escaper.push(b"\x80b"), "\u{1f980}b".as_bytes());
        assert_eq!(escaper.push(b"c\xe2"), b"c");
        assert_eq!(escaper.push(b"d"), b"\\xe2d");
        assert_eq!(escaper.finish(), b"");
    }

    #[test]
    fn every_line_has_its_prefix_and_its_end() {
        for (pieces, shown) in [
            (&["one\ntwo\n"][..], "h: one\nh: two\n"),
            (&["o", "ne\nt", "wo"], "h: one\nh: two\n"),
            (&["\n\n"], "h: \nh: \n"),
            (&["", "last"], "h: last\n"),
            (&[], ""),
        ] {
            let mut lines = Lines::new("h: ", Manner::Exact);
            let mut all: Vec<u8> = pieces.iter().flat_map(|piece| lines.push(piece.as_bytes())).collect();
            all.extend(lines.finish());
            assert_eq!(String::from_utf8_lossy(&all), shown, "{pieces:?}");
        }
    }

    #[test]
    fn lines_for_a_pipe_are_exact_and_for_a_terminal_visible() {
        let hostile = b"\x1b[2J\xff\n";
        assert_eq!(Lines::new("h: ", Manner::Exact).push(hostile), b"h: \x1b[2J\xff\n");
        assert_eq!(Lines::new("h: ", Manner::Visible).push(hostile), b"h: \\u{1b}[2J\\xff\n");
    }

    #[test]
    fn an_endless_line_is_shown_in_pieces_and_not_held() {
        let mut lines = Lines::new("h: ", Manner::Visible);
        let euro = "\u{20ac}".as_bytes().repeat(3 * LONGEST_LINE / 3);
        let mut shown = lines.push(&euro);
        assert!(lines.held.len() <= LONGEST_LINE, "{} held", lines.held.len());
        shown.extend(lines.finish());
        let text = String::from_utf8(shown).unwrap();
        assert_eq!(text.matches('\u{20ac}').count(), LONGEST_LINE);
        assert!(!text.contains("\\x") && text.lines().all(|line| line.starts_with("h: ")));
    }
}
