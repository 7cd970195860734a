"""The public texts: three books in the public domain, and picture books under CC-BY. text/README.md names them all."""

import re
from collections.abc import Iterator
from pathlib import Path

# What is not the author's: remarks of the edition, headings, pictures.
NOT_PROSE = re.compile(r"Gutenberg|\[Illustration|http|www|CONTENTS|CHAPTER [IVX]+\b|Etext|EBook|Produced by")
# A share of every book is held out: its end.
TRAINING_SHARE = 0.93
# Of the picture books, every so many-th is held out.
HELD_OUT_EVERY = 15
PARAGRAPH_CHARACTERS_MIN = 40
LICENCE = "* License: [CC-BY]"


def _plain(text: str) -> str:
    """The text with typewriter quotes and dashes: the vocabulary is small."""
    for mark, plain in (
        ("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("—", " - "), ("--", " - "), ("_", ""), ("\r", ""),
    ):  # fmt: skip
        text = text.replace(mark, plain)
    return text


def book_paragraphs(folder: Path, held_out: bool) -> list[list[str]]:
    """The paragraphs of each book: those to learn from, or those held out."""
    books = []
    for path in sorted((folder / "books").glob("*.txt")):
        paragraphs = _prose(path.read_text(encoding="utf-8", errors="replace"))
        cut = int(len(paragraphs) * TRAINING_SHARE)
        books.append(paragraphs[cut:] if held_out else paragraphs[:cut])
    return books


def _prose(text: str) -> list[str]:
    text = _plain(text)
    body = re.search(r"\*\*\* ?START OF.*?\*\*\*\n(.*)\*\*\* ?END OF", text, re.DOTALL)
    if body:
        text = body.group(1)
    paragraphs = [re.sub(r"\s+", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", text)]
    return [
        paragraph
        for paragraph in paragraphs
        if len(paragraph) > PARAGRAPH_CHARACTERS_MIN and paragraph.isascii() and not NOT_PROSE.search(paragraph)
    ]


def picture_books(folder: Path, held_out: bool) -> Iterator[str]:
    """The picture books: those to learn from, or those held out."""
    stories = (path.read_text(encoding="utf-8") for path in sorted((folder / "asp").glob("*.md")))
    # A few stories of the collection are under CC-BY-NC; a folder that has them is read as one that has not.
    free = (story for story in stories if LICENCE in story)
    for i, story in enumerate(free):
        if (i % HELD_OUT_EVERY == 0) == held_out:
            yield _picture_book(story)


def _picture_book(story: str) -> str:
    """The story alone: no heading marks, no page marks, no credits at its end."""
    story = re.split(r"\n##\s*\n\* License", story)[0]
    story = re.sub(r"^# ", "", story)
    story = re.sub(r"\n+##\s*\n", "\n\n", story).strip()
    return re.sub(r"(?<!\n)\n(?!\n)", " ", _plain(story))
