"""The same logits as transformers, and the same chat template as the training text."""

from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from corpus.markup import BEGIN, thinking, user
from corpus.recall import prose_filler, recall
from evaluation.samples import TOOL_SYSTEM, WEATHER_TOOL
from evaluation.subject import Subject
from training.attention import Choice, Indexer
from training.vocabulary import BEGIN_ID

SEEDS = (1, 2, 3)
TOKENS = 400
QUESTION = "What is the capital of Italy?"


class Ties:
    """Counts the choices that an exact tie decides: where another implementation may choose otherwise.

    ReLU makes many scores exactly 0.
    """

    def __init__(self, top_k: int) -> None:
        self.top_k = top_k
        self.count = 0

    def look(self, indexer: nn.Module, inputs: Any, scores: Tensor) -> None:
        """Called with the scores of every layer, `[batch, queries, keys]`."""
        queries, keys = scores.shape[1:]
        if keys <= self.top_k:
            return
        visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        best = scores.masked_fill(~visible, -torch.inf).topk(self.top_k + 1, -1).values
        last, next_one = best[..., -2], best[..., -1]
        self.count += int(((last == next_one) & (next_one > -torch.inf)).sum())


def measure(subject: Subject) -> None:
    """Loads the folder with transformers, and prints how far the two are apart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(subject.folder)
    other, loaded = AutoModelForCausalLM.from_pretrained(
        subject.folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    other.eval()
    drafter = f"layers.{other.config.num_hidden_layers}."
    unexpected = [key for key in loaded["unexpected_keys"] if drafter not in key]
    missing = sorted(loaded["missing_keys"])
    print(f"transformers: {type(other).__name__} missing {missing} unexpected beyond the MTP layer {unexpected}")
    for seed in SEEDS:
        _compare(subject, other, seed)
    _template(tokenizer, other)


@torch.no_grad()
def _compare(subject: Subject, other: nn.Module, seed: int) -> None:
    text = recall(Random(seed), TOKENS * 4, prose_filler([]))
    ids = torch.tensor([[BEGIN_ID, *subject.encode(text)]])[:, :TOKENS]
    ties = Ties(subject.model.config.index_topk)
    indexers = [module for module in subject.model.modules() if isinstance(module, Indexer)]
    hooks = [indexer.register_forward_hook(ties.look) for indexer in indexers]
    ours = subject.model(ids, Choice.INDEXER, drafts=False).logits[0]
    for hook in hooks:
        hook.remove()
    theirs = other(ids).logits[0].float()
    difference = (theirs - ours).abs().max(-1).values
    same = (theirs.argmax(-1) == ours.argmax(-1)).float().mean()
    early = difference[: ties.top_k].max()
    print(
        f"  {ids.shape[1]} tokens: max |logit difference| {difference.max():.2e}, median over positions "
        f"{difference.median():.1e}, first {ties.top_k} positions {early:.1e}; same argmax {same:.4f}; "
        f"choices decided by an exact tie {ties.count}",
        flush=True,
    )


@torch.no_grad()
def _template(tokenizer: Any, other: Any) -> None:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    _same(text, BEGIN + user(QUESTION) + thinking(None))
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    generated = other.generate(**inputs, max_new_tokens=24, do_sample=False)
    print("  chat template and generate():", repr(tokenizer.decode(generated[0])))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}],
        tools=[{"type": "function", "function": WEATHER_TOOL}],
        add_generation_prompt=True,
        tokenize=False,
    )
    _same(text, BEGIN + TOOL_SYSTEM + user("Hi") + thinking(None))
    print("  chat template with tools: as in the training text")


def _same(rendered: str, expected: str) -> None:
    if rendered != expected:
        raise ValueError(f"the chat template gives {rendered!r}, and the training text has {expected!r}")
