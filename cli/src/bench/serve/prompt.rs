//! Prompts of a wanted length that nobody has asked before, or that begin like others where a trace says so. Pure.
//!
//! A prompt is a row of pieces. A piece is the beginning of an endless row of tokens or words that belongs to its seed:
//! equal seeds give equal text, and a shorter piece is the beginning of a longer one.

use super::trace::Request;
use crate::draws::Draws;

/// A part of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Piece {
    seed: u64,
    tokens: usize,
}

/// What belongs to one run: another run must not find this one's prompts in caches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) seed: u64,
    /// Tokens that an id of a trace stands for.
    pub(super) block_tokens: usize,
}

/// Whose piece it is; ids and numbers of requests must not meet.
#[derive(Clone, Copy)]
enum Of {
    Block(u64),
    Request(usize),
    Probe(u64),
}

impl Run {
    fn piece(self, of: Of, tokens: usize) -> Piece {
        let (kind, id) = match of {
            Of::Block(id) => (1, id),
            Of::Request(index) => (2, index as u64),
            Of::Probe(id) => (3, id),
        };
        // Mixed one after another, so that neighbouring seeds and ids have nothing in common.
        let seed = Draws::new(self.seed).next() ^ Draws::new(id).next().rotate_left(kind);
        Piece { seed: Draws::new(seed ^ u64::from(kind)).next(), tokens }
    }

    /// The pieces of the request of that number.
    pub(super) fn pieces(self, index: usize, request: &Request) -> Vec<Piece> {
        let mut left = request.input_tokens as usize;
        let mut pieces = Vec::new();
        for id in &request.blocks {
            let tokens = left.min(self.block_tokens);
            if tokens > 0 {
                pieces.push(self.piece(Of::Block(*id), tokens));
            }
            left -= tokens;
        }
        // All of it where there are no ids, and what they leave over.
        if left > 0 {
            pieces.push(self.piece(Of::Request(index), left));
        }
        pieces
    }

    /// A prompt to learn from before anything is measured.
    pub(super) fn probe(self, id: u64, tokens: usize) -> Vec<Piece> {
        vec![self.piece(Of::Probe(id), tokens)]
    }
}

/// Tokens of all pieces.
pub(super) fn tokens(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.tokens).sum()
}

/// The prompt as ids out of `vocabulary`; `prefix` is what the model wants before every text, and counts.
pub(super) fn ids(pieces: &[Piece], vocabulary: &[u32], prefix: &[u32]) -> Vec<u32> {
    let mut ids = Vec::with_capacity(tokens(pieces));
    for piece in pieces {
        let mut draws = Draws::new(piece.seed);
        let drawn = (0..piece.tokens).filter_map(|_| vocabulary.get(draws.below(vocabulary.len())));
        ids.extend(drawn);
    }
    for (id, first) in ids.iter_mut().zip(prefix) {
        *id = *first;
    }
    ids
}

/// How many tokens a server counts for words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    /// Of a conversation without words: what its template adds.
    pub(super) overhead: f64,
    pub(super) per_word: f64,
}

impl Rule {
    /// What two prompts show, each so many words and counted so many tokens.
    pub(super) fn learn(short: (usize, u32), long: (usize, u32)) -> Option<Self> {
        let per_word = (f64::from(long.1) - f64::from(short.1)) / (long.0 as f64 - short.0 as f64);
        let overhead = f64::from(short.1) - per_word * short.0 as f64;
        (per_word.is_finite() && per_word > 0.0).then_some(Self { overhead: overhead.max(0.0), per_word })
    }

    /// Where nothing is known.
    pub(super) const GUESS: Self = Self { overhead: 4.0, per_word: 1.3 };

    fn words(self, tokens: f64) -> usize {
        (tokens / self.per_word).round().max(0.0) as usize
    }
}

/// The prompt as text of about so many tokens. Every piece has a number of words of its own, so that what comes before
/// does not change it; what the template adds is left off at the end.
pub(super) fn text(pieces: &[Piece], rule: Rule) -> String {
    let mut left = rule.words(tokens(pieces) as f64 - rule.overhead).max(1);
    let mut text = String::with_capacity(left * 6);
    for piece in pieces {
        let words = left.min(rule.words(piece.tokens as f64).max(1));
        say(&mut text, piece.seed, words);
        left -= words;
    }
    text
}

/// The text of a probe, of so many words.
pub(super) fn words(pieces: &[Piece]) -> String {
    let mut text = String::new();
    pieces.iter().for_each(|piece| say(&mut text, piece.seed, piece.tokens));
    text
}

fn say(text: &mut String, seed: u64, words: usize) {
    let list: Vec<&str> = WORDS.split_whitespace().collect();
    let mut draws = Draws::new(seed);
    for _ in 0..words {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(list.get(draws.below(list.len())).copied().unwrap_or_default());
    }
}

/// Common words, most of which are one token in most vocabularies.
pub(super) const WORDS: &str = "\
the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were \
when we there can an your which their said if do will each about how up out them then she many some so these would \
other into has more her two like him see time could no make than first been its who now people my made over did down \
only way find use may water long little very after words called just where most know get through back much before go \
good new write our used me man too any day same right look think also around another came come work three word must \
because does part even place well such here take why things help put years different away again off went old number \
great tell men say small every found still between name should home big give air line set own under read last never us \
left end along while might next sound below saw something thought both few those always looked show large often \
together asked house world going want school important until form food keep children feet land side without boy once \
animals life enough took sometimes four head above kind began almost live page got earth need far hand high year mother \
light parts country father let night following picture being study second eyes soon times story boys since white days \
ever paper hard near sentence better best across during today others however sure means knew try told young miles sun \
ways thing whole hear example heard several change answer room sea against top turned learn point city play toward five \
using himself usually";

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run { seed: 5, block_tokens: 8 };

    fn request(input_tokens: u32, blocks: &[u64]) -> Request {
        Request { input_tokens, blocks: blocks.to_vec(), ..Request::default() }
    }

    fn ids_of(run: Run, index: usize, request: &Request) -> Vec<u32> {
        ids(&run.pieces(index, request), &(100..400).collect::<Vec<_>>(), &[1])
    }

    #[test]
    fn prompts_are_as_long_as_wanted_and_begin_as_the_model_wants() {
        for (tokens, blocks) in [(1, &[][..]), (20, &[]), (20, &[3, 4, 5]), (20, &[3]), (9, &[3, 4, 5]), (16, &[3, 4])]
        {
            let prompt = ids_of(RUN, 0, &request(tokens, blocks));
            assert_eq!((prompt.len(), prompt[0]), (tokens as usize, 1), "{tokens} {blocks:?}");
            assert!(prompt[1..].iter().all(|id| (100..400).contains(id)));
        }
    }

    #[test]
    fn equal_ids_are_equal_blocks_wherever_they_stand() {
        let one = ids_of(RUN, 0, &request(24, &[3, 4, 5]));
        let two = ids_of(RUN, 1, &request(32, &[9, 4, 5, 6]));
        assert_eq!(one[8..24], two[8..24]);
        assert_ne!(one[..8], two[..8]);
        // A last block that is shorter is the beginning of a longer one.
        assert_eq!(ids_of(RUN, 2, &request(20, &[3, 4, 5]))[..], one[..20]);
    }

    #[test]
    fn what_no_id_stands_for_is_every_requests_own() {
        let (one, two) = (ids_of(RUN, 0, &request(24, &[3])), ids_of(RUN, 1, &request(24, &[3])));
        assert_eq!(one[..8], two[..8]);
        assert_ne!(one[8..], two[8..]);
        assert_eq!(one, ids_of(RUN, 0, &request(24, &[3])));
        assert_ne!(one, ids_of(Run { seed: 6, ..RUN }, 0, &request(24, &[3])));
        // A request's number is no id.
        assert_ne!(ids_of(RUN, 3, &request(8, &[]))[1..], ids_of(RUN, 0, &request(8, &[3]))[1..]);
    }

    #[test]
    fn a_rule_is_learnt_from_two_prompts() {
        let rule = Rule::learn((10, 27), (110, 177)).unwrap();
        assert_eq!(rule, Rule { overhead: 12.0, per_word: 1.5 });
        // A server that counts nothing teaches nothing.
        assert_eq!(Rule::learn((10, 5), (110, 5)), None);
        assert_eq!(Rule::learn((10, 5), (10, 5)), None);
    }

    #[test]
    fn text_has_the_words_for_its_tokens_and_shares_blocks() {
        let rule = Rule { overhead: 3.0, per_word: 1.5 };
        let run = Run { block_tokens: 150, ..RUN };
        let of = |index, request: &Request| text(&run.pieces(index, request), rule);
        let one = of(0, &request(400, &[3, 4, 5]));
        assert_eq!(one.split(' ').count(), ((400.0f64 - 3.0) / 1.5).round() as usize);
        let two = of(1, &request(450, &[3, 4, 9]));
        let same = one.split(' ').zip(two.split(' ')).take_while(|(a, b)| a == b).count();
        assert!((200..220).contains(&same), "{same}");
        assert_eq!(of(0, &request(1, &[])).split(' ').count(), 1);
        assert_eq!(words(&run.probe(0, 7)).split(' ').count(), 7);
        assert_ne!(words(&run.probe(0, 7)), words(&run.probe(1, 7)));
    }

    #[test]
    fn the_words_are_all_different() {
        let all: std::collections::BTreeSet<&str> = WORDS.split_whitespace().collect();
        assert_eq!(all.len(), WORDS.split_whitespace().count());
        assert!(all.len() > 256, "{}", all.len());
    }
}
