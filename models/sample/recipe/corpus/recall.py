"""Finding facts in a text: what the indexer of sparse attention has to learn."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from corpus.markup import Turn, chat
from corpus.stories import story
from corpus.wording import digits, pick
from corpus.words import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    COLORS,
    FOODS,
    NAMES,
    PLACES,
    THINGS,
)

# Writes prose of about so many characters.
Filler = Callable[[Random, int], str]

# More facts than this are not told apart by so small a model.
FACTS_MAX = 24


class Needle(NamedTuple):
    """A fact, the question that asks for it, and the answer."""

    statement: str
    question: str
    answer: str

    @property
    def turn(self) -> Turn:
        """Question and answer."""
        return self.question, self.answer


def needles(rng: Random, count: int, alike: bool = False) -> list[Needle]:
    """So many facts about different things. `alike`: all in one form, about few colours and things."""
    colors, things = (rng.sample(COLORS, 4), rng.sample(THINGS, 5)) if alike else (COLORS, THINGS)
    one_form = rng.random()
    keys = rng.sample([f"{color} {thing}" for color in colors for thing in things], count)
    people = rng.sample(NAMES, min(count, len(NAMES)))
    facts = []
    for i, key in enumerate(keys):
        form = one_form if alike else rng.random()
        person = people[i] if i < len(people) else None
        facts.append(_needle(rng, form, key, person))
    return facts


def _needle(rng: Random, form: float, key: str, person: str | None) -> Needle:
    number = digits(rng)
    if form < 0.5:
        fact = f"The number of the {key} is {number}."
        told = pick(rng, fact, f"Remember: the number of the {key} is {number}.")
        return Needle(told, f"What is the number of the {key}?", fact)
    if form < 0.7:
        fact = f"The password of the {key} is {rng.choice(ADJECTIVES)} {rng.choice(ANIMALS)}."
        return Needle(fact, f"What is the password of the {key}?", fact)
    if form < 0.85 or person is None:
        fact = f"The {key} is hidden in the {rng.choice(PLACES)}."
        return Needle(fact, f"Where is the {key} hidden?", fact)
    fact = f"The secret number of {person} is {number}."
    return Needle(fact, f"What is the secret number of {person}?", fact)


def prose_filler(paragraphs: Sequence[str]) -> Filler:
    """Prose of these paragraphs and of generated stories."""

    def filler(rng: Random, characters: int) -> str:
        pieces: list[str] = []
        length = 0
        while length < characters:
            from_books = bool(paragraphs) and rng.random() < 0.4
            pieces.append(rng.choice(paragraphs) if from_books else story(rng).text.replace("\n\n", " "))
            length += len(pieces[-1]) + 1
        return _cut(" ".join(pieces), characters)

    return filler


def _cut(text: str, characters: int) -> str:
    """The text up to so many characters, to the end of a sentence if one ends late enough."""
    if characters <= 20:
        return ""
    text = text[:characters]
    end = max(text.rfind(mark) for mark in (". ", '." ', "! ", "? "))
    if end > characters // 3:
        return text[: end + 1]
    return text.rsplit(" ", 1)[0] + "."


def recall(rng: Random, characters: int, filler: Filler) -> str:
    """Facts hidden in prose of so many characters; some are asked for at the end."""
    count = max(1, min(FACTS_MAX, int(characters / rng.uniform(90, 600))))
    facts = needles(rng, count)
    places = sorted(rng.random() for _ in range(count))
    pieces: list[str] = []
    last = 0.0
    for fact, place in zip(facts, places):
        pieces += [filler(rng, int((place - last) * characters)), fact.statement]
        last = place
    pieces.append(filler(rng, int((1 - last) * characters)))
    text = pick(rng, " ", "\n", "\n\n").join(piece for piece in pieces if piece)
    asked = rng.sample(facts, min(count, rng.randint(2, 6)))
    lead = pick(rng, "", "", "Read this text.\n\n", "Here is a text:\n")
    return _asked_after(rng, lead + text, asked, apart=0.5)


def similar_facts(rng: Random) -> str:
    """Many similar facts close together, most of them asked for: what teaches telling them apart."""
    facts = needles(rng, rng.randint(3, 14), alike=rng.random() < 0.5)
    asked = rng.sample(facts, min(len(facts), rng.randint(3, 7)))
    text = pick(rng, " ", "\n", "\n").join(fact.statement for fact in facts)
    return _asked_after(rng, text, asked, apart=0.3)


def _asked_after(rng: Random, text: str, asked: Sequence[Needle], apart: float) -> str:
    """The text and the questions. `apart`: how often the text is a turn of its own."""
    turns = [fact.turn for fact in asked]
    if rng.random() < apart:
        answer = pick(rng, "I have read the text.", "Thank you. What would you like to know?")
        return chat([(text, answer)] + turns)
    (first, answer), *more = turns
    return chat([(f"{text}\n\n{first}", answer)] + more)


def key_values(rng: Random) -> str:
    """A list of keys and values, as lines or as JSON; up to five values are asked for."""
    kind = rng.randrange(3)
    animals = [animal.capitalize() for animal in ANIMALS]
    pool = (NAMES + animals, THINGS + ANIMALS + FOODS, CITIES)[kind]
    keys = rng.sample(pool, rng.randint(4, min(FACTS_MAX, len(pool))))
    # A city has a number or an inhabitant, everything else a number.
    pairs = [(key, _value(rng, may_be_name=kind == 2)) for key in keys]
    asked = rng.sample(pairs, min(len(pairs), 5))
    separator = pick(rng, ": ", " = ", " is ")
    with_key = rng.random() < 0.5
    (first, value), *more = asked
    if rng.random() < 0.3:
        question = f"{json.dumps(dict(pairs))}\n\nWhat is the value of {first}?"
        turns = [(question, f"The value of {first} is {value}.")]
        return chat(turns + [(f"And {key}?", f"The value of {key} is {value}.") for key, value in more])

    def answer(key: str, value: str) -> str:
        return f"{key}{separator}{value}" if with_key else value

    lines = "\n".join(f"{key}{separator}{value}" for key, value in pairs)
    turns = [(f"{lines}\n\n{first}?", answer(first, value))]
    return chat(turns + [(f"{key}?", answer(key, value)) for key, value in more])


def _value(rng: Random, may_be_name: bool) -> str:
    if may_be_name and rng.random() >= 0.5:
        return rng.choice(NAMES)
    return digits(rng, rng.choice([2, 3, 4]))
