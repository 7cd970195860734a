"""Holds the recipe of the sample model against what it promises, without torch: every module parses, the corpus is the
same to the byte, every public text is credited, and nothing of a held-out text is trained on. Prints the sums of a small
corpus. Usage: recipe.py RECIPE_DIR HELD_OUT_TEXT"""

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


def held_out(recipe, path):
    from corpus.public_text import book_paragraphs, picture_books

    text = path.read_text(encoding="utf-8")
    trained = [paragraph for book in book_paragraphs(recipe / "text", held_out=False) for paragraph in book]
    trained += [part for tale in picture_books(recipe / "text", held_out=False) for part in tale.split("\n\n")]
    for paragraph in trained:
        # A picture book also has parts of a word or two.
        if len(paragraph) > 40 and paragraph in text:
            sys.exit(f"{path.name} has a paragraph that is trained on: {paragraph}")
    held = {paragraph for book in book_paragraphs(recipe / "text", held_out=True) for paragraph in book}
    # The rest are generated stories, of another seed.
    if 2 * sum(len(part) for part in text.split("\n\n") if part in held) < len(text):
        sys.exit(f"{path.name} is not mostly what the recipe holds out of its books")


def main():
    recipe, held_out_text = (Path(argument).resolve() for argument in sys.argv[1:])
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(recipe))
    for path in sorted(recipe.rglob("*.py")):
        ast.parse(path.read_text(encoding="utf-8"), path)
    credited(recipe)
    held_out(recipe, held_out_text)
    corpus_sums(recipe)


main()
