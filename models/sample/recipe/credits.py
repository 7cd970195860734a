#!/usr/bin/env python3
"""Names the authors of the picture books, as their files do: prints text/CREDITS.md.

python credits.py > text/CREDITS.md
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PICTURE_BOOKS = Path(__file__).parent / "text" / "asp"

HEAD = """# Credits of the picture books

Stories of the African Storybook Project (africanstorybook.org), from `en/` of github.com/global-asp/asp-source at
99e0223, each under Creative Commons Attribution (CC-BY, creativecommons.org/licenses/by). They are in `asp/` as
published, with these credits at the end of each file. Training reads them with plain quotes and dashes and without line
breaks.

| file | story | text | illustration |
| --- | --- | --- | --- |"""


class Credit(NamedTuple):
    """Who made a story."""

    file: str
    title: str
    text: str
    illustration: str


class NotFree(Exception):
    """A story without the licence under which all are given here."""


def story_credits(folder: Path) -> Iterator[Credit]:
    """The credits of every story.

    Raises NotFree where a story is not under CC-BY.
    """
    for path in sorted(folder.glob("*.md")):
        story = path.read_text(encoding="utf-8")
        fields = dict(re.findall(r"^\* ([\w ]+): (.*)$", story, re.MULTILINE))
        if fields.get("License") != "[CC-BY]":
            raise NotFree(f"{path}: not under CC-BY; leave it out")
        authors = [fields["Text"]]
        authors += [f"adaptation: {fields['Adaptation']}"] if "Adaptation" in fields else []
        translator = fields.get("Translated By") or fields.get("Translation")
        authors += [f"translation: {translator}"] if translator else []
        title = story.splitlines()[0].removeprefix("# ").strip()
        yield Credit(path.name, title, "; ".join(authors), fields["Illustration"])


def main() -> None:
    """Prints the page."""
    print(HEAD)
    for credit in story_credits(PICTURE_BOOKS):
        print(f"| {' | '.join(field.replace('|', '/') for field in credit)} |")


if __name__ == "__main__":
    try:
        main()
    except NotFree as error:
        sys.exit(str(error))
