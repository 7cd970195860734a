"""Held-out loss with sparse and with dense attention of the same weights."""

import math
from collections.abc import Mapping

from evaluation.subject import Subject
from training.attention import Choice
from training.scores import held_out_loss

# How many tokens the indexer chooses.
TOP_KS = (128, 64, 32)
LONG_ROWS = (1024, 2048)
LONG_DOMAIN = "long7000"


def measure(subject: Subject) -> None:
    """Prints the losses of each domain, and the ratios of perplexities."""
    count = 3 if subject.quick else 6
    print("held-out loss (nats per token), rows of 512 tokens; ratio = perplexity against dense")
    dense = held_out_loss(subject.model, subject.held_out, Choice.ALL, count=count)
    print(f"  {'dense':14s} mean {_mean(dense):.4f}", _rounded(dense, 3), flush=True)
    trials = [(Choice.INDEXER, top_k) for top_k in TOP_KS] + [(Choice.LAST, 64)]
    for choice, top_k in trials:
        losses = held_out_loss(subject.model, subject.held_out, choice, top_k=top_k, count=count)
        ratio = math.exp(_mean(losses) - _mean(dense))
        by_domain = {domain: math.exp(losses[domain] - dense[domain]) for domain in losses}
        name = f"{'indexer' if choice is Choice.INDEXER else 'window'} k={top_k}"
        print(f"  {name:14s} mean {_mean(losses):.4f} ratio {ratio:.4f}", _rounded(losses, 3), flush=True)
        print(f"  {'':14s} ratio by domain", _rounded(by_domain, 4), flush=True)
    for tokens in LONG_ROWS:
        _long_rows(subject, tokens, max(2, count // 2))


def _long_rows(subject: Subject, tokens: int, count: int) -> None:
    loss = {}
    for choice in Choice:
        losses = held_out_loss(
            subject.model, subject.held_out, choice, domains=(LONG_DOMAIN,), tokens=tokens, count=count
        )
        loss[choice] = losses[LONG_DOMAIN]
    dense, sparse, window = loss[Choice.ALL], loss[Choice.INDEXER], loss[Choice.LAST]
    ratio = math.exp(sparse - dense)
    print(
        f"  long documents, rows of {tokens}: dense {dense:.4f} sparse {sparse:.4f} (perplexity ratio {ratio:.4f}) "
        f"window {window:.4f}",
        flush=True,
    )


def _mean(losses: Mapping[str, float]) -> float:
    return sum(losses.values()) / len(losses)


def _rounded(values: Mapping[str, float], digits: int) -> dict[str, float]:
    return {key: round(value, digits) for key, value in values.items()}
