//! Configurations of the four architectures, and those that are refused, by the key that is wrong.

use serde_json::{Value, json};

use super::*;

fn golden(name: &str) -> Value {
    let path = crate::testing::golden(name).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A golden configuration with some keys set, or taken away by null.
fn changed(name: &str, changes: Value) -> Result<Config, ConfigError> {
    let mut config = golden(name);
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    Config::parse(config.to_string().as_bytes())
}

#[track_caller]
fn refused(name: &str, changes: Value, parts: &[&str]) {
    let error = changed(name, changes).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn an_unknown_architecture_lists_those_that_are_served() {
    refused(
        "deepseek_v32",
        json!({"model_type": "llama"}),
        &["llama", "deepseek_v32, glm_moe_dsa, deepseek_v3, deepseek_v2"],
    );
    refused("deepseek_v32", json!({"model_type": null, "architectures": ["LlamaForCausalLM"]}), &["LlamaForCausalLM"]);
    refused("deepseek_v32", json!({"model_type": null, "architectures": null}), &["no model_type"]);
}

#[test]
fn the_class_stands_in_for_a_missing_model_type() {
    let config = changed("glm_moe_dsa", json!({"model_type": null})).unwrap();
    assert_eq!(config.architecture.name, "glm_moe_dsa");
}

#[test]
fn missing_keys_and_wrong_values_are_named() {
    let v32 = "deepseek_v32";
    refused(v32, json!({"kv_lora_rank": null}), &["kv_lora_rank is missing", "deepseek_v32"]);
    refused(v32, json!({"index_topk": null}), &["index_topk is missing"]);
    refused(v32, json!({"q_lora_rank": null}), &["q_lora_rank is missing"]);
    refused(v32, json!({"hidden_size": "big"}), &["not a model configuration", "invalid type"]);
    refused(v32, json!({"hidden_size": 0}), &["hidden_size is 0", "between 1 and"]);
    refused(v32, json!({"vocab_size": 99_999_999}), &["vocab_size is 99999999"]);
    refused(v32, json!({"num_hidden_layers": 1_000_000_000}), &["num_hidden_layers"]);
    refused(v32, json!({"qk_rope_head_dim": 31}), &["qk_rope_head_dim is 31", "even"]);
    refused(v32, json!({"index_head_dim": 16}), &["index_head_dim is 16", "at least qk_rope_head_dim"]);
    refused(v32, json!({"hidden_act": "gelu"}), &["hidden_act is gelu", "silu"]);
    refused(v32, json!({"attention_bias": true}), &["attention_bias"]);
    refused(v32, json!({"max_position_embeddings": 0}), &["max_position_embeddings"]);
    assert!(matches!(Config::parse(b"{"), Err(ConfigError::Json(_))));
}

#[test]
fn gates_that_cannot_choose_are_refused() {
    let v32 = "deepseek_v32";
    refused(v32, json!({"n_group": 5}), &["n_group is 5", "divisor"]);
    refused(v32, json!({"topk_group": 5}), &["topk_group is 5"]);
    refused(v32, json!({"num_experts_per_tok": 9}), &["num_experts_per_tok is 9", "between 1 and 8"]);
    refused(v32, json!({"topk_method": "greedy"}), &["topk_method is greedy", "noaux_tc"]);
    refused(v32, json!({"scoring_func": "relu"}), &["scoring_func is relu"]);
    refused("deepseek_v2", json!({"norm_topk_prob": true}), &["norm_topk_prob", "softmax"]);
}

#[test]
fn rope_and_quantization_that_hadal_does_not_have_are_refused() {
    let v32 = "deepseek_v32";
    refused(v32, json!({"rope_scaling": {"type": "linear", "factor": 2}}), &["rope type \"linear\"", "yarn"]);
    refused(v32, json!({"rope_scaling": {"type": "yarn"}}), &["factor", "missing"]);
    refused(v32, json!({"rope_theta": -1.0}), &["rope_theta"]);
    refused(v32, json!({"quantization_config": {"quant_method": "awq"}}), &["quant_method is awq", "fp8"]);
    refused(v32, json!({"quantization_config": {"weight_block_size": [128]}}), &["weight_block_size"]);
    refused(v32, json!({"quantization_config": {"weight_block_size": [0, 128]}}), &["weight_block_size"]);
}

#[test]
fn layers_are_dense_first_and_drafts_last() {
    let config = changed("deepseek_v32", json!({})).unwrap();
    let moe: Vec<bool> = config.layers.iter().map(|l| l.moe).collect();
    assert_eq!(moe, [false, true, true, true, true]);
    assert_eq!((config.main_layers(), config.draft_layers()), (4, 1));
    let types = json!({"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]});
    let config = changed("deepseek_v32", types).unwrap();
    assert_eq!(config.layers.iter().map(|l| l.moe).collect::<Vec<_>>(), [false, true, false, true, true]);
    refused("deepseek_v32", json!({"mlp_layer_types": ["dense"]}), &["mlp_layer_types is a list of 1", "4 of"]);
    refused("deepseek_v32", json!({"mlp_layer_types": ["a", "a", "a", "a"]}), &["mlp_layer_types is a"]);
}

#[test]
fn glm_shares_choices_by_list_or_by_period() {
    use LayerChoice::{Own, Reuse};
    let listed = changed("glm_moe_dsa", json!({})).unwrap();
    let choices = |c: &Config| c.layers.iter().map(|l| l.choice).collect::<Vec<_>>();
    // The draft layer has an indexer of its own.
    assert_eq!(choices(&listed), [Own, Own, Reuse(1), Own, Own]);
    let periodic = changed("glm_moe_dsa", json!({"indexer_types": null})).unwrap();
    assert_eq!(choices(&periodic), choices(&listed));
    let alone = changed("glm_moe_dsa", json!({"indexer_types": null, "index_topk_freq": null})).unwrap();
    assert_eq!(choices(&alone), [Own; 5]);
    let shared = json!({"indexer_types": ["shared", "full", "full", "full"]});
    refused("glm_moe_dsa", shared, &["indexer_types is shared in the first layer"]);
    refused("glm_moe_dsa", json!({"indexer_types": ["full"]}), &["a list of 1"]);
    refused("glm_moe_dsa", json!({"indexer_types": null, "index_topk_freq": 0}), &["index_topk_freq"]);
}

#[test]
fn the_published_periods_of_glm_give_the_published_list() {
    let path = crate::testing::golden("configs/glm-5.2.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let listed = Config::parse(json.to_string().as_bytes()).unwrap();
    json["indexer_types"] = Value::Null;
    assert_eq!(Config::parse(json.to_string().as_bytes()).unwrap().layers, listed.layers);
}

#[test]
fn v2_has_no_query_latent_and_a_plain_gate() {
    let config = changed("deepseek_v2", json!({})).unwrap();
    let moe = config.moe.unwrap();
    assert_eq!((config.q_rank, config.indexer, config.draft_layers()), (None, None, 0));
    assert_eq!((moe.scoring, moe.bias, moe.normalise, moe.groups), (Scoring::Softmax, false, false, 1));
    let limited = json!({"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2});
    let moe = changed("deepseek_v2", limited).unwrap().moe.unwrap();
    assert_eq!((moe.groups, moe.groups_kept, moe.bias), (4, 2, false));
}
