#!/usr/bin/env python3
"""Trains the sample model on a CPU and writes its checkpoint: OUT/checkpoint.

    python train.py --data MIX --out RUN --minutes 120
    python train.py --out RUN --export FOLDER        # what RUN has saved, also while it trains

A run goes on from OUT/last.pt when that is there, and saves it every few minutes. training/schedule.py has the stages,
the mixture and the learning rates.
"""

import argparse
from pathlib import Path

import torch

from training.trainer import Options, export, processes


def main() -> None:
    """Reads the command line; trains or exports."""
    parser = argparse.ArgumentParser(description="Trains the sample model on a CPU.")
    parser.add_argument("--data", type=Path, help="folder of make_corpus.py; not needed to export")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=120, help="wall time of all stages")
    parser.add_argument("--save-minutes", type=float, default=3, help="time between saves")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train together")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--batch", type=int, default=2, help="rows of each process")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="write the checkpoint of what is saved, and end")
    parser.add_argument("--from", dest="source", default="last", help="with --export: last, or the end of a stage")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if arguments.export:
        print(export(arguments.out, arguments.source, arguments.export))
        return
    if arguments.data is None:
        parser.error("--data is needed to train")
    options = Options(
        data=arguments.data,
        out=arguments.out,
        minutes=arguments.minutes,
        save_minutes=arguments.save_minutes,
        threads=arguments.threads,
        batch=arguments.batch,
    )
    processes(arguments.ranks, options)


if __name__ == "__main__":
    main()
