//! Golden tokens and conversations, and the detokenizer against `tokenizers` itself.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const ARCHITECTURES: [&str; 5] = ["deepseek_v32", "deepseek_v32-fp8", "deepseek_v3", "deepseek_v2", "glm_moe_dsa"];

fn folder(architecture: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(architecture)
}

fn files(architecture: &str) -> BTreeMap<String, Vec<u8>> {
    let read = |name: &str| Some((name.to_owned(), std::fs::read(folder(architecture).join(name)).ok()?));
    ModelText::FILES.into_iter().filter_map(read).collect()
}

fn model(architecture: &str) -> ModelText {
    ModelText::from_files(&files(architecture)).unwrap()
}

fn golden(architecture: &str, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(architecture).join("golden").join(file)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn golden_texts_have_golden_tokens() {
    for architecture in ARCHITECTURES {
        let text = model(architecture);
        for case in golden(architecture, "tokenizer.json")["encode"].as_array().unwrap() {
            let input = case["text"].as_str().unwrap();
            assert_eq!(text.encode_plain(input).unwrap(), ids(&case["ids"]), "{architecture}: {input:?}");
            assert_eq!(text.decode(&ids(&case["ids"])), case["decoded_skip_special"], "{architecture}: {input:?}");
        }
    }
}

#[test]
fn golden_conversations_have_golden_texts_and_tokens() {
    for architecture in ARCHITECTURES {
        let text = model(architecture);
        for case in golden(architecture, "tokenizer.json")["chat"].as_array().unwrap() {
            let messages: Vec<_> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| ChatMessage(m.as_object().unwrap().clone()))
                .collect();
            let mut options = ChatOptions {
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                ..Default::default()
            };
            if let Some(thinking) = case.get("thinking") {
                options.variables.insert("thinking".into(), thinking.clone());
            }
            let rendered = text.render_chat(&messages, &options).unwrap();
            assert_eq!(rendered, case["text"].as_str().unwrap());
            assert_eq!(text.encode_plain(&rendered).unwrap(), ids(&case["ids"]));
            // What was rendered has its beginning-of-sequence token, and gets no second one.
            assert_eq!(text.encode_prompt(&rendered).unwrap(), ids(&case["ids"]));
        }
    }
}

#[test]
fn prompts_begin_with_the_token_that_the_model_wants() {
    for architecture in ARCHITECTURES {
        let text = model(architecture);
        for prompt in golden(architecture, "golden.json")["prompts"].as_array().unwrap() {
            let tokens = text.encode_prompt(prompt["text"].as_str().unwrap()).unwrap();
            assert_eq!(tokens[0], 0, "{architecture}");
            assert_eq!(text.decode(&tokens), text.decode(&ids(&prompt["input_ids"])), "{architecture}");
        }
    }
}

#[test]
fn defaults_come_from_the_files() {
    let text = model("deepseek_v32");
    let expected =
        GenerationDefaults { temperature: 0.6, top_p: 0.95, eos_token_ids: vec![1], ..GenerationDefaults::default() };
    assert_eq!(*text.defaults(), expected);
}

#[test]
fn broken_files_are_named() {
    let mut missing = files("deepseek_v32");
    missing.remove(TOKENIZER);
    assert_eq!(ModelText::from_files(&missing).unwrap_err(), ModelTextError::MissingTokenizer);

    let error = |name: &str, bytes: &str| {
        let mut files = files("deepseek_v32");
        files.insert(name.into(), bytes.into());
        ModelText::from_files(&files).unwrap_err().to_string()
    };
    assert!(error(TOKENIZER, "{").starts_with("tokenizer.json: "));
    assert!(error(TOKENIZER_CONFIG, "{").starts_with("tokenizer_config.json: "));
    assert!(error(GENERATION_CONFIG, r#"{"eos_token_id": "x"}"#).contains("eos_token_id must be a token id"));
    let broken = error(CHAT_TEMPLATE, "line one\n{% if %}");
    assert!(
        broken.starts_with("chat_template.jinja: the chat template is broken") && broken.contains("line 2"),
        "{broken}"
    );
}

#[test]
fn a_vocabulary_that_is_not_bytes_is_refused() {
    let mut files = files("deepseek_v32");
    let mut tokenizer: Value = serde_json::from_slice(&files[TOKENIZER]).unwrap();
    tokenizer["decoder"] = json!({"type": "Fuse"});
    files.insert(TOKENIZER.into(), tokenizer.to_string().into_bytes());
    assert_eq!(ModelText::from_files(&files).unwrap_err(), ModelTextError::Decoder { decoder: "Fuse".into() });
}

#[test]
fn a_model_without_a_template_says_what_to_use_instead() {
    let mut files = files("deepseek_v32");
    files.insert(TOKENIZER_CONFIG.into(), b"{}".to_vec());
    let text = ModelText::from_files(&files).unwrap();
    let failure = text.render_chat(&[ChatMessage::new("user", "x")], &ChatOptions::default()).unwrap_err();
    assert!(!text.has_chat_template() && failure.message.contains("/v1/completions"));
    assert_eq!(text.encode_prompt("x").unwrap(), text.encode_plain("x").unwrap());
}

#[test]
fn settings_of_a_training_run_do_not_cut_or_fill_prompts() {
    let mut files = files("deepseek_v32");
    let mut tokenizer: Value = serde_json::from_slice(&files[TOKENIZER]).unwrap();
    tokenizer["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    files.insert(TOKENIZER.into(), tokenizer.to_string().into_bytes());
    let text = ModelText::from_files(&files).unwrap();
    assert_eq!(text.encode_plain("a b c d e f").unwrap(), model("deepseek_v32").encode_plain("a b c d e f").unwrap());
}

proptest! {
    #[test]
    fn any_tokens_one_by_one_give_the_text_of_the_whole(tokens in prop::collection::vec(0u32..520, 0..40)) {
        let text = model_once();
        let (mut detokenizer, mut out) = (text.detokenizer(), String::new());
        let whole = text.tokenizer.decode(&tokens, true).unwrap();
        for &token in &tokens {
            detokenizer.push(token, &mut out);
            prop_assert!(whole.starts_with(&out), "{:?} is not a beginning of {:?}", out, whole);
        }
        detokenizer.finish(&mut out);
        prop_assert_eq!(out, whole);
    }
}

fn model_once() -> &'static ModelText {
    static MODEL: std::sync::OnceLock<ModelText> = std::sync::OnceLock::new();
    MODEL.get_or_init(|| model("deepseek_v32"))
}

#[test]
fn a_run_of_blanks_is_tokenised_as_published_or_refused() {
    let text = model("deepseek_v32");
    let run = |length: usize| text.encode_plain(&(" ".repeat(length) + "x"));
    // The last blank belongs to the word after it.
    assert_eq!(run(BLANKS_MAX).unwrap().last(), text.encode_plain(" x").unwrap().last());
    let failure = run(BLANKS_MAX + 1).unwrap_err();
    assert!(failure.kind == FailureKind::Invalid && failure.message.contains("250001"), "{failure}");
}
