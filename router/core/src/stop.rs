//! Stop strings in a stream of text. The first match is the one that ends first; of those that end at the same
//! character, the longest. So the result does not depend on how the text is cut into pieces.
//!
//! Each string runs its own Knuth-Morris-Pratt automaton over the bytes; the longest state of any is exactly the text
//! that may still be the beginning of a match, and the only text held back.

use std::collections::VecDeque;

/// Searches one output for stop strings.
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    /// The text held back: as long as the longest state.
    held: VecDeque<u8>,
}

struct Pattern {
    text: Vec<u8>,
    /// `fallback[i]`: length of the longest proper beginning of `text[..=i]` that is also its end.
    fallback: Vec<u32>,
    state: usize,
}

impl StopMatcher {
    /// Searches for the strings; empty ones match nothing.
    pub fn new(stop: &[String]) -> Self {
        Self { patterns: stop.iter().map(|s| Pattern::new(s)).collect(), held: VecDeque::new() }
    }

    /// Takes text in and appends to `out` what cannot belong to a match. `Some(i)`: string `i` matched, `out` ends
    /// before it, and nothing further may be pushed.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        if self.patterns.is_empty() {
            out.push_str(text);
            return None;
        }
        let mut certain = Vec::with_capacity(text.len());
        let matched = text.bytes().find_map(|byte| self.byte(byte, &mut certain));
        // A pattern begins at a character's first byte, so what is held does too, and `certain` ends with a character.
        out.push_str(&String::from_utf8_lossy(&certain));
        matched
    }

    /// The text still held, when no more comes.
    pub fn finish(&mut self) -> String {
        let held: Vec<u8> = self.held.drain(..).collect();
        self.patterns.iter_mut().for_each(|p| p.state = 0);
        String::from_utf8_lossy(&held).into_owned()
    }

    fn byte(&mut self, byte: u8, certain: &mut Vec<u8>) -> Option<usize> {
        // (length, index) of the longest string that ends here; the first of equal ones.
        let mut matched: Option<(usize, usize)> = None;
        let mut keep = 0;
        for (i, pattern) in self.patterns.iter_mut().enumerate() {
            let ends = pattern.step(byte);
            keep = keep.max(pattern.state);
            if ends && matched.is_none_or(|(length, _)| pattern.text.len() > length) {
                matched = Some((pattern.text.len(), i));
            }
        }
        self.held.push_back(byte);
        let keep = matched.map_or(keep, |(length, _)| length);
        let release = self.held.len().saturating_sub(keep);
        certain.extend(self.held.drain(..release));
        let (_, which) = matched?;
        self.held.clear();
        Some(which)
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut fallback = vec![0u32; text.len()];
        let mut k = 0;
        for i in 1..text.len() {
            while k > 0 && text[i] != text[k] {
                k = fallback[k - 1] as usize;
            }
            k += usize::from(text[i] == text[k]);
            fallback[i] = k as u32;
        }
        Self { text, fallback, state: 0 }
    }

    /// Whether the string ends with this byte.
    fn step(&mut self, byte: u8) -> bool {
        if self.text.is_empty() {
            return false;
        }
        while self.state > 0 && self.text[self.state] != byte {
            self.state = self.fallback[self.state - 1] as usize;
        }
        self.state += usize::from(self.text[self.state] == byte);
        self.state == self.text.len()
    }
}

#[cfg(test)]
mod tests;
