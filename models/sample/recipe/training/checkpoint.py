"""The checkpoint folder, in Hugging Face's layout and with DeepSeek's names: written from the model's state, and read.

Weights are bf16, but for the two that the published checkpoints keep in f32: the routers' biases and the norms of the
indexers' keys. The layer that drafts is the one after the last, with copies of the embedding and of the head.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from corpus.markup import BEGIN, END, PAD, TOOLS_PROMPT
from training.config import ModelConfig
from training.model import Model
from training.vocabulary import BEGIN_ID, END_ID, PAD_ID

CHAT_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
KEPT_IN_F32 = ("k_norm", "e_score_correction_bias")
EXPERTS = "mlp.experts_"


def _published_name(name: str, config: ModelConfig) -> str:
    """The published name of a parameter or buffer; of stacked experts, that of the first."""
    drafter = f"layers.{config.num_hidden_layers}."
    if name.startswith("mtp.norm"):
        name = drafter + "shared_head.norm.weight"
    elif name.startswith("mtp."):
        name = drafter + name.removeprefix("mtp.").removeprefix("layer.")
    if not name.startswith("lm_head"):
        name = "model." + name
    if EXPERTS in name:
        layer, projection = name.split(EXPERTS)
        name = f"{layer}mlp.experts.0.{projection}.weight"
    return name


def _expert_name(first: str, expert: int) -> str:
    return first.replace(".experts.0.", f".experts.{expert}.")


def _published(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in state.items():
        published = _published_name(name, config)
        if EXPERTS in name:
            tensors.update({_expert_name(published, e): one for e, one in enumerate(tensor)})
        else:
            tensors[published] = tensor
    drafter = f"model.layers.{config.num_hidden_layers}."
    tensors[drafter + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"]
    tensors[drafter + "shared_head.head.weight"] = tensors["lm_head.weight"]
    return tensors


def _stored(name: str, tensor: Tensor) -> Tensor:
    """In its published type. Cloned, because safetensors refuses tensors that share memory."""
    keep = any(part in name for part in KEPT_IN_F32)
    return tensor.to(torch.float32 if keep else torch.bfloat16).clone().contiguous()


def write(folder: Path, state: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Writes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(name, tensor) for name, tensor in sorted(_published(state, config).items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config.fields())
    generation = {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "pad_token_id": PAD_ID, "do_sample": False}
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(config))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _tokenizer_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": _added_token(BEGIN),
        "clean_up_tokenization_spaces": False,
        "eos_token": _added_token(END),
        "legacy": True,
        "model_max_length": config.max_position_embeddings,
        "pad_token": _added_token(PAD),
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": chat_template(),
    }


def _added_token(mark: str) -> dict[str, Any]:
    return {
        "__type": "AddedToken",
        "content": mark,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }


def chat_template() -> str:
    """The template, with the words of `corpus.markup` about tools as a string of Jinja's."""
    words = TOOLS_PROMPT.split("{schemas}")[0].replace("\n", "\\n").replace("'", "\\'")
    template = CHAT_TEMPLATE.read_text(encoding="utf-8").removesuffix("\n")
    return template.replace("@TOOLS_PROMPT@", words)


def read(folder: Path) -> Model:
    """The model of a folder, in f32."""
    config = ModelConfig.read(folder)
    model = Model(config)
    tensors = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    state = {}
    for name in model.state_dict():
        published = _published_name(name, config)
        if EXPERTS in name:
            experts = [tensors[_expert_name(published, e)] for e in range(config.n_routed_experts)]
            state[name] = torch.stack(experts)
        else:
            state[name] = tensors[published]
    model.load_state_dict(state)
    return model.eval()
