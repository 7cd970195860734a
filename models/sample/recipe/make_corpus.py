#!/usr/bin/env python3
"""Builds the corpus of the sample model: a little public prose, mostly generated text.

Needs Python 3.11 or later and nothing else. The same seed and scale give the same bytes.

    python make_corpus.py --out MIX --scale 16000
"""

import argparse
from pathlib import Path

from corpus.mixture import write_corpus

TEXT = Path(__file__).parent / "text"


def main() -> None:
    """Reads the command line and writes OUT/train.jsonl and OUT/val.jsonl, one {"d": domain, "t": text} a line."""
    parser = argparse.ArgumentParser(description="Builds the corpus of the sample model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--text", type=Path, default=TEXT, help="folder of the public texts; theirs beside this file")
    parser.add_argument("--scale", type=int, default=16000, help="size; 16,000 gives about 60 million tokens")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for split, characters in write_corpus(arguments.out, arguments.text, arguments.scale, arguments.seed):
        print(split, "characters", dict(characters))


if __name__ == "__main__":
    main()
