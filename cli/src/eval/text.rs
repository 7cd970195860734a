//! The text that a model is measured on: pieces that a router tokenises, windows of tokens, and filler from anywhere.

/// Tokens of a window that are its prompt, at least: more than a block of the cache, so that a prefill worker computes
/// them and a decode worker the rest.
const PROMPT_TOKENS_MIN: usize = 96;

/// Tokens of a window of `window` that are its prompt; the rest is scored.
pub(super) fn prompt_tokens(window: usize) -> usize {
    (window / 8).max(PROMPT_TOKENS_MIN)
}

/// A sequence to score: the model is given the prompt, then made to say the rest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) prompt: Vec<u32>,
    pub(super) forced: Vec<u32>,
}

/// Cuts tokens into windows one after another, each `prefix` (such as the beginning-of-sequence token) and tokens of the
/// text, `window` together. What is left over at the end is not used.
pub(super) fn windows(prefix: &[u32], tokens: &[u32], window: usize, count: usize) -> Vec<Window> {
    let cut = |chunk: &[u32]| {
        let mut prompt = [prefix, chunk].concat();
        let forced = prompt.split_off(prompt_tokens(window).min(prompt.len()));
        Window { prompt, forced }
    };
    tokens.chunks_exact(window.saturating_sub(prefix.len()).max(1)).take(count).map(cut).collect()
}

/// Cuts a text into pieces of at most `bytes` (at least 4, the longest character). A word is not cut unless it is
/// longer, and the space before it goes with it, as it does in a vocabulary.
pub(super) fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = floor(rest, bytes.max(4));
        let whole = |end: &usize| *end > 0;
        let space = || rest[..end].rfind(char::is_whitespace).filter(whole).unwrap_or(end);
        let (piece, more) = rest.split_at(if end < rest.len() { space() } else { end });
        rest = more;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The last boundary between characters that is not after `at`.
pub(super) fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// How far to look for the end of a sentence.
const SENTENCE_BYTES: usize = 400;

/// The first place from `at` on where a sentence has ended; else where a word has; else `at` itself.
pub(super) fn sentence(text: &str, at: usize) -> usize {
    let at = floor(text, at);
    let near = &text[at..floor(text, at + SENTENCE_BYTES)];
    let ends = [". ", "! ", "? ", ".\n", "!\n", "?\n", "\n\n"];
    let end = ends.iter().filter_map(|end| near.find(end).map(|found| found + end.len())).min();
    let word = || near.find(char::is_whitespace).map(|found| found + 1);
    // All whitespace that ends words here but U+0085, U+00A0 and the like is one byte.
    at + floor(near, end.or_else(word).unwrap_or(0))
}

/// So many bytes of `text` from `start` on, at boundaries of characters; it goes round at the end.
pub(super) fn around(text: &str, start: usize, bytes: usize) -> String {
    let mut filler = String::with_capacity(bytes);
    let mut at = floor(text, start);
    while filler.len() < bytes && !text.is_empty() {
        let end = floor(text, at + (bytes - filler.len()));
        if end == at && at < text.len() {
            break;
        }
        filler.push_str(&text[at..end]);
        at = 0;
        if end < text.len() {
            break;
        }
    }
    filler
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_their_prompt_and_do_not_overlap() {
        let tokens: Vec<u32> = (10..410).collect();
        let cut = windows(&[1], &tokens, 128, 9);
        assert_eq!(cut.len(), 3);
        assert_eq!((cut[0].prompt.len(), cut[0].forced.len()), (96, 32));
        assert_eq!(cut[0].prompt[..3], [1, 10, 11]);
        assert_eq!((cut[0].forced[31], cut[1].prompt[1]), (136, 137));
        assert_eq!(windows(&[], &tokens, 128, 2).len(), 2);
        assert_eq!(windows(&[1], &tokens, 2048, 2), []);
        assert_eq!(prompt_tokens(4096), 512);
    }

    #[test]
    fn pieces_put_together_are_the_text_and_words_stay_whole() {
        let text = "the lamp übermäßig  long-words-of-many-letters\nend";
        let cut: Vec<_> = pieces(text, 12).collect();
        assert_eq!(cut.concat(), text);
        assert!(cut.iter().all(|piece| piece.len() <= 12), "{cut:?}");
        assert_eq!(cut[0], "the lamp");
        assert_eq!(pieces("", 12).count(), 0);
        assert_eq!(pieces("  ä", 1).collect::<String>(), "  ä");
    }

    #[test]
    fn a_sentence_is_not_broken_where_one_ends_nearby() {
        let text = "One two. Three four! Five";
        assert_eq!(&text[sentence(text, 2)..], "Three four! Five");
        assert_eq!(&text[sentence(text, 10)..], "Five");
        assert_eq!(sentence(text, 22), 22);
        assert_eq!(&"ab cd"[sentence("ab cd", 0)..], "cd");
        // U+3000 is three bytes; its middle is no place.
        let wide = "ab\u{3000}cd";
        assert!(wide.is_char_boundary(sentence(wide, 0)));
        assert_eq!(sentence(text, 999), text.len());
    }

    #[test]
    fn filler_goes_round() {
        assert_eq!(around("abcde", 3, 9), "deabcdeab");
        assert_eq!(around("abcde", 1, 2), "bc");
        assert_eq!(around("", 1, 2), "");
        let cut = around("äöü", 3, 9);
        assert!(cut.len() <= 9 && cut.starts_with('ö'), "{cut}");
    }
}
