//! The bytes that each token stands for. A byte-level vocabulary writes every byte as one printable character; here
//! they are bytes again, so that text is a concatenation and decoding needs no library call a token.
//!
//! Layout: the bytes of all ids end to end, and where each ends.

use tokenizers::Tokenizer;

/// Bytes of every token id.
pub struct Vocabulary {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    special: Vec<bool>,
    longest: usize,
}

impl Vocabulary {
    /// Reads all ids of a tokenizer whose decoder is `ByteLevel`.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |&id| id + 1);
        let alphabet = alphabet();
        let mut vocabulary = Self { bytes: Vec::new(), ends: Vec::new(), special: Vec::new(), longest: 1 };
        for id in 0..size {
            let start = vocabulary.bytes.len();
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            push_bytes(&token, &alphabet, &mut vocabulary.bytes);
            vocabulary.longest = vocabulary.longest.max(vocabulary.bytes.len() - start);
            vocabulary.ends.push(vocabulary.bytes.len() as u32);
            vocabulary.special.push(tokenizer.get_added_vocabulary().is_special_token(&token));
        }
        vocabulary
    }

    /// One past the largest id that the tokenizer knows.
    pub fn size(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Bytes of the longest token; at least 1.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The token's bytes; none for an id that the tokenizer does not know (a model may have more rows).
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Whether text leaves this token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The token alone as text; bytes that are no character become U+FFFD.
    pub fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.bytes(id)).into_owned()
    }
}

/// Byte of each character of GPT-2's alphabet, by code: printable Latin-1 stands for itself, the other bytes follow in
/// order from U+0100 on. [openai/gpt-2, src/encoder.py, `bytes_to_unicode`]
fn alphabet() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    let mut next = 0x100;
    for byte in 0..=u8::MAX {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            bytes[usize::from(byte)] = Some(byte);
        } else {
            bytes[next] = Some(byte);
            next += 1;
        }
    }
    bytes
}

/// An added token with a character outside the alphabet is text, not bytes in disguise, exactly as `tokenizers`
/// decodes it.
fn push_bytes(token: &str, alphabet: &[Option<u8>], out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match alphabet.get(c as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}
