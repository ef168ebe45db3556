//! GPT-2's way to cut text into words before byte pairs are merged, without a regular expression engine.
//! The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` (Radford et al., 2019);
//! what a letter, a number and white space is, is asked of `regex-syntax`, so that it is what the `tokenizers` crate takes
//! it for.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3;

/// The class of each character: 1.1 MB, made at first use; the part of a script is small enough for a cache.
#[derive(Debug)]
pub(super) struct Classes(Vec<u8>);

pub(super) fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut table = vec![OTHER; 0x11_0000];
        for (pattern, class) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)] {
            let parsed = regex_syntax::parse(pattern).expect("the pattern is a constant");
            let HirKind::Class(Class::Unicode(ranges)) = parsed.kind() else {
                unreachable!("{pattern} is a class of characters")
            };
            for range in ranges.iter() {
                table[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        Classes(table)
    })
}

impl Classes {
    /// The class of the character that begins at `at`, and its length in bytes.
    fn at(&self, text: &str, at: usize) -> Option<(u8, usize)> {
        let first = *text.as_bytes().get(at)?;
        if first < 0x80 {
            return Some((self.0[usize::from(first)], 1));
        }
        let character = text[at..].chars().next()?;
        Some((self.0[character as usize], character.len_utf8()))
    }

    /// Where the characters of `class` from `at` on end.
    fn run(&self, text: &str, mut at: usize, class: u8) -> usize {
        while let Some((found, length)) = self.at(text, at) {
            if found != class {
                break;
            }
            at += length;
        }
        at
    }

    /// Where the word that begins at `at` ends; `at` is before the end of the text.
    pub(super) fn word_end(&self, text: &str, at: usize) -> usize {
        let bytes = text.as_bytes();
        if bytes[at] == b'\'' {
            match bytes[at + 1..] {
                [b's' | b't' | b'm' | b'd', ..] => return at + 2,
                [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => return at + 3,
                _ => {}
            }
        }
        let body = at + usize::from(bytes[at] == b' ');
        match self.at(text, body) {
            Some((class, length)) if class != SPACE => self.run(text, body + length, class),
            _ => self.spaces_end(text, at),
        }
    }

    /// White space leaves its last character to the word behind it, unless it has no other.
    fn spaces_end(&self, text: &str, at: usize) -> usize {
        let end = self.run(text, at, SPACE);
        if end == text.len() {
            return end;
        }
        let last = text[at..end].chars().next_back().map_or(0, char::len_utf8);
        if end - last > at { end - last } else { end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let (mut words, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let end = classes().word_end(text, at);
            assert!(end > at);
            words.push(&text[at..end]);
            at = end;
        }
        words
    }

    #[test]
    fn text_is_cut_as_the_pattern_cuts_it() {
        assert_eq!(
            words("It's  12 o'clock, we'll see"),
            ["It", "'s", " ", " 12", " o", "'", "clock", ",", " we", "'ll", " see"]
        );
        assert_eq!(words("a\n\n  b  "), ["a", "\n\n ", " b", "  "]);
        assert_eq!(words("a\t\tb\nc"), ["a", "\t", "\t", "b", "\n", "c"]);
        assert_eq!(words(" '' 'S !?x"), [" ''", " '", "S", " !?", "x"]);
        assert_eq!(
            words("naïve Ελλάς ①½ 日本語。"),
            ["naïve", " Ελλάς", " ①½", " 日本語", "。"]
        );
        assert_eq!(
            words("a\u{301}b\u{a0}\u{3000}c"),
            ["a", "\u{301}", "b", "\u{a0}", "\u{3000}", "c"]
        );
        assert_eq!(words("'"), ["'"]);
        assert_eq!(words(" "), [" "]);
    }
}
