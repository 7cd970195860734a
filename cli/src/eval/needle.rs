//! Needles: facts planted in a text, questions for them, and whether an answer is right.
//!
//! The text before a question, left to right:
//!
//!     head, some sentences | the fact asked for | filler and other facts, `distance` tokens
//!
//! It is "needle in a haystack" by distance; with other facts of the same form it is RULER's multi-key needle, which
//! asks to tell facts apart and not only to find one [Hsieh et al. 2024, arXiv:2404.06654, niah_multikey_1].

use super::text::{around, floor, sentence};
use crate::draws::Draws;

const COLOURS: [&str; 10] = ["red", "blue", "green", "yellow", "white", "black", "brown", "pink", "purple", "silver"];
const THINGS: [&str; 16] = [
    "ball", "lamp", "book", "box", "cup", "key", "hat", "boat", "drum", "coat", "bell", "spoon", "stone", "clock",
    "letter", "bottle",
];

/// Facts that a text may have beside the one asked for.
pub(super) const OTHERS_MAX: usize = COLOURS.len() * THINGS.len() / 2;

/// Of the needle `index` at `distance`, so that every run asks the same.
pub(super) fn draws(distance: usize, index: usize) -> Draws {
    Draws::new(((distance as u64) << 32) ^ index as u64)
}

/// A number that a thing has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fact {
    thing: String,
    value: String,
}

impl Fact {
    fn statement(&self) -> String {
        format!("The number of the {} is {}.", self.thing, self.value)
    }

    /// The question for it.
    pub(super) fn question(&self) -> String {
        format!("What is the number of the {}?", self.thing)
    }
}

/// Facts about different things, with different numbers of four digits that `text` does not have.
fn facts(draws: &mut Draws, count: usize, text: &str) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Vec::new();
    let mut things: Vec<String> =
        COLOURS.iter().flat_map(|colour| THINGS.map(|thing| format!("{colour} {thing}"))).collect();
    while facts.len() < count && !things.is_empty() {
        let thing = things.swap_remove(draws.below(things.len()));
        let mut value = String::new();
        // A text full of numbers may have any; then the last one must do.
        for _ in 0..1000 {
            value = (1000 + draws.below(9000)).to_string();
            if !text.contains(&value) && facts.iter().all(|fact| fact.value != value) {
                break;
            }
        }
        facts.push(Fact { thing, value });
    }
    facts
}

/// Facts and where they go in a text.
pub(super) struct Needle {
    /// The one at the distance, then the others.
    pub(super) facts: Vec<Fact>,
    head: String,
    /// Where the filler begins in the text.
    start: usize,
    /// Of each other fact, as a share of the filler; the last one first.
    places: Vec<f64>,
}

impl Needle {
    /// Facts for a place in `text`, with about `head_bytes` of it before them.
    pub(super) fn new(text: &str, draws: &mut Draws, others: usize, head_bytes: usize) -> Self {
        let begin = sentence(text, draws.below(text.len()));
        let start = sentence(text, (begin + head_bytes) % text.len().max(1));
        let mut head = around(text, begin, if start > begin { start - begin } else { text.len() - begin + start });
        // A sentence may be long; the head's room in the context is not.
        let head = head.split_off(floor(&head, head.len().saturating_sub(2 * head_bytes)));
        let facts = facts(draws, others + 1, text);
        let mut places: Vec<f64> = (0..others).map(|_| draws.below(1 << 20) as f64 / f64::from(1 << 20)).collect();
        places.sort_by(|a, b| b.total_cmp(a));
        Self { facts, head, start, places }
    }

    /// What stands between the fact and the question: so many bytes of the text, and the other facts.
    pub(super) fn after(&self, text: &str, bytes: usize) -> String {
        let mut after = around(text, self.start, bytes);
        let filler = after.len() as f64;
        for (fact, place) in self.facts.iter().skip(1).zip(&self.places) {
            let at = sentence(&after, (filler * place) as usize);
            let apart = if after[..at].ends_with(char::is_whitespace) || at == 0 { "" } else { " " };
            after.insert_str(at, &format!("{apart}{} ", fact.statement()));
        }
        after
    }

    /// All that is read before the question.
    pub(super) fn text(&self, after: &str) -> String {
        let head = self.head.trim_end();
        format!("{head} {} {after}", self.facts.first().map(Fact::statement).unwrap_or_default())
    }
}

/// How near to the wanted distance is near enough: this share, or so many tokens.
pub(super) const NEAR_SHARE: f64 = 0.02;
const NEAR_TOKENS: f64 = 3.0;

/// How many bytes of filler to try next, when `bytes` gave `tokens` and `wanted` are; none when that is near enough.
pub(super) fn resized(bytes: usize, tokens: usize, wanted: usize, bytes_per_token: f64) -> Option<usize> {
    let missing = wanted as f64 - tokens as f64;
    let near = missing.abs() <= (NEAR_SHARE * wanted as f64).max(NEAR_TOKENS);
    (!near).then(|| (bytes as f64 + missing * bytes_per_token).max(0.0) as usize)
}

/// Whether an answer has the number asked for, and none of the others'.
pub(super) fn right(answer: &str, asked: &Fact, facts: &[Fact]) -> bool {
    let said = numbers(answer);
    let has = |fact: &Fact| said.contains(&fact.value);
    has(asked) && !facts.iter().any(|fact| fact != asked && has(fact))
}

/// The whole numbers in a text; 4,821 is one.
fn numbers(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
    let mut numbers = vec![String::new()];
    for (i, c) in chars.iter().enumerate() {
        match c {
            '0'..='9' => numbers.iter_mut().last().into_iter().for_each(|number| number.push(*c)),
            ',' if i > 0 && digit(i - 1) && (i + 1..i + 4).all(digit) && !digit(i + 4) => {}
            _ => numbers.push(String::new()),
        }
    }
    numbers.retain(|number| !number.is_empty());
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "Once there was a king. He had 1234 horses! Were they fast? They were. So he was glad. The end.\n";

    fn needle(others: usize) -> Needle {
        Needle::new(TEXT, &mut draws(128, 3), others, 30)
    }

    #[test]
    fn the_fact_stands_before_the_filler_and_after_some_text() {
        let needle = needle(0);
        let after = needle.after(TEXT, 200);
        let text = needle.text(&after);
        let statement = needle.facts[0].statement();
        assert_eq!(text.matches(&statement).count(), 1);
        let (head, rest) = text.split_once(&statement).unwrap();
        assert!(head.len() >= 20 && head.ends_with(['.', '!', '?', ' ']), "{head:?}");
        assert_eq!(rest.trim_start(), after);
        assert_eq!(after.len(), 200);
        assert!(needle.facts[0].question().contains(&needle.facts[0].thing));
    }

    #[test]
    fn text_without_sentences_makes_no_long_head() {
        let words = "word ".repeat(4) + &"-".repeat(380) + " word.";
        for index in 0..50 {
            let needle = Needle::new(&words, &mut draws(128, index), 0, 30);
            assert!(needle.head.len() <= 60, "{index}: {:?}", needle.head);
        }
    }

    #[test]
    fn other_facts_are_different_and_between() {
        let needle = needle(7);
        let after = needle.after(TEXT, 400);
        for fact in &needle.facts[1..] {
            assert_eq!(after.matches(&fact.statement()).count(), 1, "{after}");
        }
        assert!(!after.contains(&needle.facts[0].statement()));
        let count =
            |part: fn(&Fact) -> &String| needle.facts.iter().map(part).collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!((count(|fact| &fact.thing), count(|fact| &fact.value)), (8, 8));
    }

    #[test]
    fn numbers_of_the_text_are_not_asked_for() {
        // Half of all numbers, so that a draw that does not look would soon have one.
        let half: String = (1000..10000).step_by(2).map(|n| format!("{n} ")).collect();
        for seed in 0..50 {
            let value = &facts(&mut draws(1, seed), 1, &half)[0].value;
            assert!(value.len() == 4 && !half.contains(value), "{seed}: {value}");
        }
        assert_eq!(facts(&mut draws(1, 1), 1000, "").len(), COLOURS.len() * THINGS.len());
    }

    #[test]
    fn equal_seeds_ask_the_same_and_others_do_not() {
        let of = |index| Needle::new(TEXT, &mut draws(128, index), 2, 30);
        assert_eq!(of(1).facts, of(1).facts);
        assert_ne!(of(1).facts, of(2).facts);
    }

    #[test]
    fn an_answer_is_right_with_the_number_as_a_whole_and_no_other() {
        let fact = |thing: &str, value: &str| Fact { thing: thing.into(), value: value.into() };
        let facts = [fact("red lamp", "4821"), fact("blue key", "7310")];
        let right = |answer| right(answer, &facts[0], &facts);
        assert!(right("The number of the red lamp is 4821.") && right("4,821") && right("It is **4821**, of course."));
        assert!(!right("14821") && !right("48210") && !right("") && !right("7310"));
        assert!(!right("4821 or 7310") && !right("48 21") && right("4821, 12"));
    }

    #[test]
    fn the_filler_is_sized_until_it_is_near() {
        assert_eq!(resized(400, 100, 200, 4.0), Some(800));
        assert_eq!(resized(800, 198, 200, 4.0), None);
        assert_eq!(resized(10, 200, 100, 4.0), Some(0));
        assert_eq!(resized(8000, 2030, 2000, 4.0), None);
    }
}
