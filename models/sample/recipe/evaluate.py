#!/usr/bin/env python3
"""Measures a checkpoint folder.

    python evaluate.py RUN/checkpoint --data MIX

Every part prints as it goes; --parts picks some of them. Agreement needs transformers.
"""

import argparse
from pathlib import Path

import torch

from evaluation import agreement, answers, drafts, needles, perplexity, samples
from evaluation.subject import Subject

TEXT = Path(__file__).parent / "text"
PARTS = {
    "perplexity": perplexity.measure,
    "answers": answers.measure,
    "drafts": drafts.measure,
    "samples": samples.measure,
    "needles": needles.measure,
    "agreement": agreement.measure,
}


def main() -> None:
    """Reads the command line and runs the parts."""
    parser = argparse.ArgumentParser(description="Measures a checkpoint folder.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of make_corpus.py")
    parser.add_argument("--text", type=Path, default=TEXT, help="folder of the public texts; theirs beside this file")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rows and trials")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    subject = Subject.read(arguments.checkpoint, arguments.data, arguments.text, arguments.quick)
    for part in arguments.parts:
        PARTS[part](subject)


if __name__ == "__main__":
    main()
