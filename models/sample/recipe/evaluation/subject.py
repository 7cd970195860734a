"""What is measured: a checkpoint folder, and the held-out documents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import checkpoint
from training.attention import Choice
from training.model import Model
from training.rows import Rows
from training.vocabulary import END_ID


@dataclass(frozen=True)
class Subject:
    """A model with its tokenizer, and what it is measured on."""

    folder: Path
    model: Model
    tokenizer: Tokenizer
    held_out: Rows
    # Of the public texts.
    text: Path
    # Fewer and shorter measurements.
    quick: bool

    @classmethod
    def read(cls, folder: Path, data: Path, text: Path, quick: bool) -> "Subject":
        """Reads the folder, and the held-out split of a corpus folder."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(folder, checkpoint.read(folder), tokenizer, Rows(data, tokenizer, "val"), text, quick)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as it stands."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def most_likely(self, ids: Tensor, choice: Choice) -> Tensor:
        """After each id of a row, the most likely next one."""
        return self.model(ids[None], choice, drafts=False).logits[0].argmax(-1)

    def generate(self, ids: list[int], count: int) -> list[int]:
        """The ids, and up to so many most likely ones after them, with the indexer's choice."""
        ids = list(ids)
        for _ in range(count):
            ids.append(int(self.most_likely(torch.tensor(ids), Choice.INDEXER)[-1]))
            if ids[-1] == END_ID:
                break
        return ids
