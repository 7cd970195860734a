//! The matcher against a plain search of the whole text, however the text is cut.

use proptest::prelude::*;

use super::*;

fn run(stop: &[&str], pieces: &[&str]) -> (String, Option<usize>, String) {
    let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
    let (mut matcher, mut out) = (StopMatcher::new(&stop), String::new());
    for piece in pieces {
        if let Some(which) = matcher.push(piece, &mut out) {
            return (out, Some(which), String::new());
        }
    }
    let held = matcher.finish();
    (out, None, held)
}

#[test]
fn a_match_across_pieces_ends_the_text_before_it() {
    assert_eq!(run(&["END"], &["one E", "N", "D two"]), ("one ".into(), Some(0), String::new()));
}

#[test]
fn only_a_possible_beginning_is_held_back() {
    assert_eq!(run(&["END"], &["an E"]), ("an ".into(), None, "E".into()));
    assert_eq!(run(&["END"], &["an E", "x"]), ("an Ex".into(), None, String::new()));
    assert_eq!(run(&["aab"], &["aaaa"]), ("aa".into(), None, "aa".into()));
}

#[test]
fn the_first_to_end_wins_and_of_equal_ones_the_longest() {
    assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), Some(1), String::new()));
    assert_eq!(run(&["c", "abc"], &["xabc"]), ("x".into(), Some(1), String::new()));
}

#[test]
fn nothing_to_search_for_holds_nothing() {
    assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None, String::new()));
    assert_eq!(run(&[""], &["ab"]), ("ab".into(), None, String::new()));
}

/// (characters before the match, which), by trying every end.
fn search(stop: &[String], text: &str) -> Option<(usize, usize)> {
    for (end, _) in text.char_indices().map(|(i, c)| (i + c.len_utf8(), c)) {
        let ending = stop.iter().enumerate().filter(|(_, s)| !s.is_empty() && text[..end].ends_with(s.as_str()));
        if let Some((which, s)) = ending.max_by_key(|(i, s)| (s.len(), std::cmp::Reverse(*i))) {
            return Some((end - s.len(), which));
        }
    }
    None
}

proptest! {
    #[test]
    fn any_pieces_give_the_first_match_of_the_whole(
        stop in prop::collection::vec("[abé]{1,4}", 0..5),
        pieces in prop::collection::vec("[abé]{0,3}", 0..12),
    ) {
        let whole = pieces.concat();
        let (mut matcher, mut out, mut taken) = (StopMatcher::new(&stop), String::new(), String::new());
        let mut matched = None;
        for piece in &pieces {
            taken.push_str(piece);
            matched = matcher.push(piece, &mut out);
            if matched.is_some() {
                break;
            }
            let held = &taken[out.len()..];
            prop_assert!(taken.starts_with(&out));
            // What is held may be a beginning, and nothing before it may.
            prop_assert!(held.is_empty() || stop.iter().any(|s| s.len() > held.len() && s.starts_with(held)));
            let longer = out.char_indices().map(|(i, _)| &taken[i..]);
            for longer in longer {
                prop_assert!(!stop.iter().any(|s| s.len() > longer.len() && s.starts_with(longer)));
            }
        }
        match search(&stop, &whole) {
            Some((start, which)) => {
                prop_assert_eq!(matched, Some(which));
                prop_assert_eq!(out, &whole[..start]);
            }
            None => {
                prop_assert_eq!(matched, None);
                out.push_str(&matcher.finish());
                prop_assert_eq!(out, whole);
            }
        }
    }
}
