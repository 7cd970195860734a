"""Holds the recipe of the sample model against what it promises, without torch: every module parses, the corpus is the
same to the byte, every public text is credited. Prints the sums of a small corpus. Usage: recipe.py RECIPE_DIR"""

import ast
import contextlib
import hashlib
import io
import sys
import tempfile
from pathlib import Path

SCALE = 40


def corpus_sums(recipe):
    from corpus.mixture import write_corpus

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for split, _ in write_corpus(out, recipe / "text", SCALE, seed=1):
            print(split, hashlib.sha256((out / f"{split}.jsonl").read_bytes()).hexdigest())


def credited(recipe):
    import credits

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        credits.main()
    if printed.getvalue() != (recipe / "text/CREDITS.md").read_text(encoding="utf-8"):
        sys.exit("text/CREDITS.md is stale; renew it with python credits.py > text/CREDITS.md")


def main():
    recipe = Path(sys.argv[1]).resolve()
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(recipe))
    for path in sorted(recipe.rglob("*.py")):
        ast.parse(path.read_text(encoding="utf-8"), path)
    credited(recipe)
    corpus_sums(recipe)


main()
