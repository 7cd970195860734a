"""Rows of tokens to learn from: documents packed end to end, each beginning with its mark."""

import hashlib
import json
import math
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from corpus.whole import written_whole
from training.schedule import (
    CUT_AT_BEGINNING,
    JUMP_POSITIONS_MAX,
    JUMPS_MAX,
    POSITIONS_MAX,
)
from training.vocabulary import BEGIN_ID, END_ID, FIRST_ADDED_ID, FIRST_WORD_ID

# The mean length of `repeat`, whose documents are drawn and not stored.
REPEAT_TOKENS_MEAN = 75
# So often another document is drawn where one does not fit.
TRIES = 6
# In more room than this the end of a document is worth having.
CUT_TOKENS_MIN = 256


class Rows:
    """The documents of one split by domain, as tokens."""

    def __init__(self, data: Path, tokenizer: Tokenizer, split: str) -> None:
        """Reads the split's tokens, or makes them where they are missing or older than the corpus."""
        # Checkpoints of other runs may be measured on the same corpus, each with the tokenizer it came with.
        digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:12]
        cache, source = data / f"{split}-{digest}.pt", data / f"{split}.jsonl"
        if not cache.exists() or cache.stat().st_mtime < source.stat().st_mtime:
            with written_whole(cache) as unfinished:
                torch.save(_tokens(source, tokenizer), unfinished)
        # By domain: all ids, and where each document begins; int16 is half the memory of what a vocabulary needs.
        self.domains: dict[str, tuple[Tensor, Tensor]] = torch.load(cache)

    def count(self, domain: str) -> int:
        """How many documents a domain has."""
        return len(self.domains[domain][1]) - 1

    def token_counts(self) -> dict[str, int]:
        """How many tokens each domain has."""
        return {domain: len(ids) for domain, (ids, _) in self.domains.items()}

    def document(self, domain: str, i: int) -> Tensor:
        """One document's ids."""
        ids, starts = self.domains[domain]
        return ids[starts[i] : starts[i + 1]]

    def weights(self, mixture: dict[str, float]) -> dict[str, float]:
        """How often a document of each domain is to be drawn, from each domain's share of tokens."""
        weights = {}
        for domain, share in mixture.items():
            if domain == "repeat":
                weights[domain] = share / REPEAT_TOKENS_MEAN
            elif domain in self.domains:
                weights[domain] = share / (len(self.domains[domain][0]) / self.count(domain))
        return weights

    def row(self, rng: Random, tokens: int, weights: dict[str, float]) -> Tensor:
        """So many ids. Whole documents where some fit: an answer cut off teaches nothing."""
        parts: list[Tensor] = []
        filled = 0
        while filled < tokens:
            room = tokens - filled
            for _ in range(TRIES):
                domain = rng.choices(list(weights), list(weights.values()))[0]
                part = self._drawn(rng, domain)
                may_be_cut = domain in CUT_AT_BEGINNING
                if len(part) <= room or (may_be_cut and room >= CUT_TOKENS_MIN):
                    break
            if may_be_cut and len(part) > room:
                part = part[-room:]
            parts.append(part)
            filled += len(part)
        return torch.cat(parts)[:tokens].long()

    def _drawn(self, rng: Random, domain: str) -> Tensor:
        if domain == "repeat":
            return _repeated_ids(rng)
        return self.document(domain, rng.randrange(self.count(domain)))

    def batch(self, rng: Random, rows: int, tokens: int, weights: dict[str, float]) -> tuple[Tensor, Tensor]:
        """Ids and positions, `[rows, tokens + 1]` both: every token has a next one."""
        ids = [self.row(rng, tokens + 1, weights) for _ in range(rows)]
        positions = [_positions(rng, tokens + 1) for _ in range(rows)]
        return torch.stack(ids), torch.stack(positions)


def _tokens(source: Path, tokenizer: Tokenizer) -> dict[str, tuple[Tensor, Tensor]]:
    texts: dict[str, list[str]] = {}
    with source.open(encoding="utf-8") as lines:
        for line in lines:
            document = json.loads(line)
            texts.setdefault(document["d"], []).append(document["t"])
    domains = {}
    for domain, documents in texts.items():
        encoded = tokenizer.encode_batch(documents, add_special_tokens=False)
        ids = [[BEGIN_ID, *e.ids] + ([] if e.ids[-1:] == [END_ID] else [END_ID]) for e in encoded]
        starts = torch.tensor([0] + [len(document) for document in ids]).cumsum(0)
        flat = torch.tensor([one for document in ids for one in document], dtype=torch.int16)
        domains[domain] = (flat, starts)
    return domains


def _repeated_ids(rng: Random) -> Tensor:
    count = rng.choice((4, 8, 16, 32, 64))
    ids = [rng.randrange(FIRST_WORD_ID, FIRST_ADDED_ID) for _ in range(count)]
    return torch.tensor([BEGIN_ID, *(ids * rng.randint(2, 4)), END_ID], dtype=torch.int16)


def _positions(rng: Random, tokens: int) -> Tensor:
    positions = torch.arange(tokens)
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, JUMPS_MAX)):
            place = rng.randrange(1, tokens)
            # Even by the logarithm: near jumps are as frequent as far ones.
            jump = int(math.exp(rng.uniform(2, math.log(JUMP_POSITIONS_MAX))))
            if positions[-1] + jump < POSITIONS_MAX:
                positions[place:] += jump
    return positions
