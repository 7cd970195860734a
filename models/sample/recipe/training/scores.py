"""How good the model is at each domain, on held-out documents."""

from collections.abc import Sequence
from random import Random

import torch
import torch.nn.functional as F

from training.attention import Choice
from training.model import Model
from training.rows import Rows
from training.schedule import HELD_OUT_DOMAINS, ROW_TOKENS
from training.vocabulary import END_ID, END_THINK_ID

# Every measurement draws the same rows.
SEED = 11


@torch.no_grad()
def held_out_loss(
    model: Model,
    rows: Rows,
    choice: Choice,
    *,
    top_k: int | None = None,
    domains: Sequence[str] = HELD_OUT_DOMAINS,
    tokens: int = ROW_TOKENS,
    count: int = 4,
) -> dict[str, float]:
    """Nats per token of each domain, over so many rows of so many tokens."""
    was_training = model.training
    model.eval()
    losses = {}
    for domain in domains:
        rng = Random(SEED)
        ids = torch.stack([rows.row(rng, tokens + 1, {domain: 1.0}) for _ in range(count)])
        logits = model(ids[:, :-1], choice, top_k=top_k, drafts=False).logits
        losses[domain] = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    model.train(was_training)
    return losses


@torch.no_grad()
def whole_answers(
    model: Model, rows: Rows, domain: str, choice: Choice, *, tokens_max: int = 512, documents: int = 24
) -> tuple[float, int]:
    """The share of answers that are right in every token, each after the right ones; and how many answers there are."""
    was_training = model.training
    model.eval()
    right = total = read = 0
    for i in range(rows.count(domain)):
        ids = rows.document(domain, i).long()
        if len(ids) > tokens_max:
            continue
        if read == documents:
            break
        read += 1
        said = model(ids[None, :-1], choice, drafts=False).logits[0].argmax(-1)
        for begin in (ids == END_THINK_ID).nonzero().flatten().tolist():
            end = begin + 1
            while ids[end] != END_ID:
                end += 1
            right += bool((said[begin:end] == ids[begin + 1 : end + 1]).all())
            total += 1
    model.train(was_training)
    return right / max(total, 1), total
