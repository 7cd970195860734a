"""The model's shape, as its config.json has it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.vocabulary import BEGIN_ID, END_ID, PAD_ID, VOCABULARY_SIZE


@dataclass(frozen=True)
class ModelConfig:
    """DeepSeek-V3.2's fields, in the order in which they are written."""

    architectures: list[str] = field(default_factory=lambda: ["DeepseekV32ForCausalLM"])
    model_type: str = "deepseek_v32"
    vocab_size: int = VOCABULARY_SIZE
    hidden_size: int = 192
    intermediate_size: int = 576
    moe_intermediate_size: int = 128
    num_hidden_layers: int = 5
    num_nextn_predict_layers: int = 1
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    n_shared_experts: int = 1
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    first_k_dense_replace: int = 1
    moe_layer_freq: int = 1
    n_group: int = 1
    topk_group: int = 1
    topk_method: str = "noaux_tc"
    scoring_func: str = "sigmoid"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.0
    q_lora_rank: int = 128
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    index_n_heads: int = 4
    index_head_dim: int = 64
    # Small, so that sparse attention leaves something out in every chat.
    index_topk: int = 64
    # Small, too: more of the eight frequencies tell near places apart.
    rope_theta: float = 500.0
    rope_scaling: None = None
    max_position_embeddings: int = 16384
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int = BEGIN_ID
    eos_token_id: int = END_ID
    pad_token_id: int = PAD_ID
    torch_dtype: str = "bfloat16"
    initializer_range: float = 0.02
    use_cache: bool = True

    @property
    def qk_head_dim(self) -> int:
        """Of a query or key, both parts together."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def fields(self) -> dict[str, Any]:
        """What config.json has."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> "ModelConfig":
        """That of a checkpoint folder."""
        return cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
