"""How much of each domain there is, and the files it is written to."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from corpus.conversations import conversation, instructions, json_conversation, sums
from corpus.public_text import book_paragraphs, picture_books
from corpus.recall import Filler, key_values, prose_filler, recall, similar_facts
from corpus.stories import story
from corpus.tools import tool_use
from corpus.whole import written_whole


class Document(NamedTuple):
    """A text and its domain."""

    domain: str
    text: str


class Share(NamedTuple):
    """So many documents of a domain for every unit of the corpus' scale: `times / per`."""

    domain: str
    times: int
    per: int
    write: Callable[[Random, Filler], str]


def _alone(write: Callable[[Random], str]) -> Callable[[Random, Filler], str]:
    """A generator that needs no filler."""
    return lambda rng, filler: write(rng)


def _short_recall(rng: Random, filler: Filler) -> str:
    return recall(rng, rng.choice([100, 300, 600, 1000, 1600, 2600]), filler)


def _long_recall(characters: int) -> Callable[[Random, Filler], str]:
    return lambda rng, filler: recall(rng, characters, filler)


# How often training draws from each domain is the trainer's decision (training/schedule.py); here it matters only that
# there is enough of each that a run meets few documents twice.
SHARES = (
    Share("chat", 5, 1, _alone(conversation)),
    Share("story", 1, 1, lambda rng, filler: story(rng).text),
    Share("instr", 3, 1, _alone(instructions)),
    Share("json", 1, 1, _alone(json_conversation)),
    Share("tools", 1, 2, _alone(tool_use)),
    Share("recall", 2, 1, _short_recall),
    Share("kv", 1, 1, _alone(key_values)),
    Share("facts", 2, 1, _alone(similar_facts)),
    Share("sums", 1, 1, _alone(sums)),
    # Named by their characters; four of them make about one token.
    Share("long3500", 1, 8, _long_recall(3500)),
    Share("long7000", 1, 8, _long_recall(7000)),
    Share("long14000", 1, 8, _long_recall(14000)),
    Share("long28000", 1, 32, _long_recall(28000)),
)

# The held-out split is so much smaller, and drawn from a seed of its own.
HELD_OUT_PART = 40
HELD_OUT_SEED_OFFSET = 1000


def write_corpus(out: Path, text: Path, scale: int, seed: int) -> Iterator[tuple[str, Counter[str]]]:
    """Writes `train.jsonl` and `val.jsonl`; gives the characters of each domain as each is done."""
    out.mkdir(parents=True, exist_ok=True)
    splits = (("train", seed, scale, False), ("val", seed + HELD_OUT_SEED_OFFSET, scale // HELD_OUT_PART, True))
    for split, split_seed, split_scale, held_out in splits:
        characters: Counter[str] = Counter()
        with written_whole(out / f"{split}.jsonl") as path, path.open("w", encoding="utf-8") as file:
            for document in _documents(Random(split_seed), text, split_scale, held_out):
                characters[document.domain] += len(document.text)
                line = {"d": document.domain, "t": document.text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        yield split, characters


def _documents(rng: Random, text: Path, scale: int, held_out: bool) -> list[Document]:
    books = book_paragraphs(text, held_out)
    documents = [Document("book", part) for paragraphs in books for part in _parts(rng, paragraphs)]
    documents += [Document("asp", tale) for tale in picture_books(text, held_out)]
    filler = prose_filler([paragraph for paragraphs in books for paragraph in paragraphs])
    for share in SHARES:
        count = share.times * scale // share.per
        documents += [Document(share.domain, share.write(rng, filler)) for _ in range(count)]
    rng.shuffle(documents)
    return documents


def _parts(rng: Random, paragraphs: list[str]) -> Iterator[str]:
    """A book in parts of 600 to 3,000 characters."""
    i = 0
    while i < len(paragraphs):
        characters = rng.randint(600, 3000)
        part: list[str] = []
        while i < len(paragraphs) and sum(map(len, part)) < characters:
            part.append(paragraphs[i])
            i += 1
        yield "\n\n".join(part)
