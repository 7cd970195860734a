"""A byte-level BPE tokenizer in the form of DeepSeek's, trained on the corpus."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from corpus.whole import written_whole
from training.vocabulary import ADDED_MARKS, SPECIAL_MARKS, VOCABULARY_SIZE

# DeepSeek's three patterns: numbers, Chinese and Japanese, everything else.
NUMBERS = r"\p{N}{1,3}"
HAN_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
REST = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
# In training every digit stands alone, so that no token holds two: so small a model copies digits, not groups of them.
SINGLE_DIGITS = r"\p{N}"

# Of generated text a tenth is enough, and of each document its end.
GENERATED_EVERY = 10
GENERATED_CHARACTERS = 1200
# Public prose counts twice, or its words would drown in the generators' few hundred.
PROSE_DOMAINS = ("book", "asp")


def tokenizer(data: Path) -> Tokenizer:
    """The tokenizer of a corpus folder; trained when it is not there, or older than the corpus."""
    path, corpus = data / "tokenizer.json", data / "train.jsonl"
    if not path.exists() or path.stat().st_mtime < corpus.stat().st_mtime:
        trained = train_tokenizer(corpus)
        with written_whole(path) as unfinished:
            trained.save(str(unfinished))
    return Tokenizer.from_file(str(path))


def train_tokenizer(corpus: Path) -> Tokenizer:
    """Trains it on a file of documents."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([])
    trained.pre_tokenizer = _pre_tokenizer(SINGLE_DIGITS)
    trained.decoder = decoders.ByteLevel()
    trained.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(ADDED_MARKS),
        special_tokens=SPECIAL_MARKS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_texts(corpus), trainer)
    trained.pre_tokenizer = _pre_tokenizer(NUMBERS)
    trained.add_tokens([AddedToken(mark, normalized=True, special=False) for mark in ADDED_MARKS])
    if trained.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(f"{corpus}: too little text for {VOCABULARY_SIZE} tokens; build it with a larger --scale")
    return trained


def _pre_tokenizer(numbers: str) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (numbers, HAN_AND_KANA, REST)]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _texts(corpus: Path) -> Iterator[str]:
    with corpus.open(encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            document = json.loads(line)
            domain, text = document["d"], document["t"]
            for mark in SPECIAL_MARKS + ADDED_MARKS:
                text = text.replace(mark, "\n")
            if domain in PROSE_DOMAINS:
                yield text
                yield text
            elif i % GENERATED_EVERY == 0 and not domain.startswith("long"):
                yield text[-GENERATED_CHARACTERS:]
