//! A choice over the published tiny vocabulary: every token once, text and tokens in step.

use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::text::ModelText;

fn text() -> &'static ModelText {
    static TEXT: OnceLock<ModelText> = OnceLock::new();
    TEXT.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/deepseek_v32");
        let read = |name: &str| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?));
        ModelText::from_files(&ModelText::FILES.into_iter().filter_map(read).collect()).unwrap()
    })
}

fn choice(stop: &[&str]) -> Choice {
    let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
    Choice::new(text().vocabulary().clone(), 3, &stop)
}

fn texts(events: &[ChoiceEvent]) -> String {
    let text = |e: &ChoiceEvent| match e {
        ChoiceEvent::Text(delta) => delta.text.clone(),
        ChoiceEvent::Finished { .. } => String::new(),
    };
    events.iter().map(text).collect()
}

fn encode(input: &str) -> Vec<u32> {
    text().encode_plain(input).unwrap()
}

#[test]
fn a_stop_string_ends_the_output_at_the_token_that_completes_it() {
    let tokens = encode("one two. three");
    let mut choice = choice(&[" two."]);
    let events = choice.on_delta(0, &tokens, &[]).unwrap();
    assert_eq!(texts(&events), "one");
    let used = choice.tokens().len();
    assert!(used < tokens.len());
    assert!(text().decode(&tokens[..used]).contains(" two.") && !text().decode(&tokens[..used - 1]).contains(" two."));
    let end = ChoiceEvent::Finished { reason: FinishReason::Stop, stop: Some(" two.".into()), cancel: true };
    assert_eq!(events.last(), Some(&end));
    // The worker may have sent more before it was cancelled.
    assert!(choice.on_delta(used as u32, &tokens[used..], &[]).unwrap().is_empty());
    assert!(choice.on_finished(FinishReason::Length).is_empty());
    assert_eq!(choice.tokens().len(), used);
}

#[test]
fn what_is_held_back_comes_out_at_the_end() {
    let tokens = encode("one tw");
    let mut choice = choice(&[" two"]);
    assert_eq!(texts(&choice.on_delta(0, &tokens, &[]).unwrap()), "one");
    let events = choice.on_finished(FinishReason::Length);
    assert_eq!(texts(&events), " tw");
    let end = ChoiceEvent::Finished { reason: FinishReason::Length, stop: None, cancel: false };
    assert_eq!(events.last(), Some(&end));
}

#[test]
fn tokens_that_were_had_are_dropped_and_a_gap_is_an_error() {
    let tokens = encode("some words that are several tokens");
    let mut choice = choice(&[]);
    let mut all = texts(&choice.on_delta(0, &tokens[..4], &[]).unwrap());
    assert_eq!(choice.on_delta(0, &tokens[..3], &[]).unwrap(), []);
    assert_eq!(choice.on_delta(5, &tokens[5..], &[]), Err(Gap { expected: 4, got: 5 }));
    let events = choice.on_delta(2, &tokens[2..], &[]).unwrap();
    assert!(
        matches!(&events[0], ChoiceEvent::Text(d) if d.first_token == 4 && d.choice == 3 && d.token_ids == tokens[4..])
    );
    all.push_str(&texts(&events));
    assert_eq!(all, "some words that are several tokens");
}

#[test]
fn logprobs_name_tokens_and_where_they_begin() {
    let tokens = encode("你好");
    let raw: Vec<_> = tokens
        .iter()
        .map(|&t| RawLogprobs { logprob: -0.5, top: vec![(t, -0.5), (1, -3.0)], choice_overlap: None })
        .collect();
    let mut choice = choice(&[]);
    let events = choice.on_delta(0, &tokens, &raw).unwrap();
    let ChoiceEvent::Text(delta) = &events[0] else { panic!("{events:?}") };
    let bytes: Vec<u8> = delta.logprobs.iter().flat_map(|l| l.token.bytes.clone()).collect();
    assert_eq!(bytes, "你好".as_bytes());
    assert_eq!(delta.logprobs[0].text_offset, 0);
    assert_eq!(delta.logprobs[0].top[1].text(), "<｜end▁of▁sentence｜>");
    assert!(delta.logprobs.last().unwrap().text_offset <= 1);
}

#[test]
fn a_special_token_is_counted_and_not_shown() {
    let mut choice = choice(&[]);
    let mut tokens = encode("end");
    tokens.push(1);
    assert_eq!(texts(&choice.on_delta(0, &tokens, &[]).unwrap()), "end");
    assert_eq!(choice.tokens(), tokens);
}

proptest! {
    #[test]
    fn any_deltas_give_every_token_once_and_the_text_of_the_whole(
        tokens in prop::collection::vec(0u32..512, 1..60),
        cuts in prop::collection::vec((0usize..60, 0usize..60), 0..20),
    ) {
        let mut choice = choice(&[]);
        let mut events = Vec::new();
        let last = (0, tokens.len());
        for (from, to) in cuts.into_iter().chain([last]) {
            let (from, to) = (from.min(tokens.len()), to.min(tokens.len()));
            if from <= to
                && let Ok(more) = choice.on_delta(from as u32, &tokens[from..to], &[])
            {
                events.extend(more);
            }
        }
        events.extend(choice.on_finished(FinishReason::Length));
        let ids: Vec<u32> = events.iter().flat_map(|e| match e {
            ChoiceEvent::Text(delta) => delta.token_ids.clone(),
            ChoiceEvent::Finished { .. } => Vec::new(),
        }).collect();
        prop_assert_eq!(texts(&events), text().decode(&tokens));
        prop_assert_eq!(ids, tokens);
    }

    #[test]
    fn usage_ends_at_the_first_token_whose_text_has_a_stop_string(
        tokens in prop::collection::vec(3u32..512, 1..60),
        stop in prop::collection::vec("[a-e ]{1,2}", 1..3),
        cut in 0usize..60,
    ) {
        let stops: Vec<&str> = stop.iter().map(String::as_str).collect();
        let mut choice = choice(&stops);
        let cut = cut.min(tokens.len());
        let mut events = choice.on_delta(0, &tokens[..cut], &[]).unwrap();
        events.extend(choice.on_delta(cut as u32, &tokens[cut..], &[]).unwrap_or_default());
        // Stop strings are ASCII here, so a character that is only begun is in none of them.
        let has = |text: &str| stops.iter().any(|s| text.contains(s));
        let used = (1..=tokens.len()).find(|&k| has(&text().decode(&tokens[..k])));
        prop_assert_eq!(choice.ended(), used.is_some());
        prop_assert_eq!(choice.tokens().len(), used.unwrap_or(tokens.len()));
        let out = texts(&events);
        prop_assert!(!has(&out) && text().decode(choice.tokens()).starts_with(&out));
    }
}
