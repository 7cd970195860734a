"""Instructions to follow, and JSON to write."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from corpus.markup import Turn
from corpus.wording import capitalized, listing, pick, with_article
from corpus.words import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    COLORS,
    DAYS,
    FOODS,
    MONTHS,
    MOODS,
    NAMES,
    NUMBER_WORDS,
    PLACES,
    SPOTS,
    THINGS,
)

WORDS = sorted(set(NAMES + ANIMALS + COLORS + THINGS + PLACES + FOODS + ADJECTIVES + MOODS))
CATEGORIES = {
    "animals": ANIMALS,
    "colours": COLORS,
    "foods": FOODS,
    "cities": CITIES,
    "names": NAMES,
    "places": PLACES,
    "things": THINGS,
    "days": DAYS,
    "months": MONTHS,
}


def instruction(rng: Random) -> Turn:
    """Something to do, and it done."""
    return rng.choice(INSTRUCTIONS)(rng)


def _count(rng: Random) -> Turn:
    start, steps = rng.randint(0, 40), rng.randint(2, 12)
    down = rng.random() < 0.25 and start >= steps
    numbers = range(start, start - steps - 1, -1) if down else range(start, start + steps + 1)
    first, last = numbers[0], numbers[-1]
    question = pick(
        rng,
        f"Count from {first} to {last}.",
        f"Please count from {first} to {last}.",
        f"Can you count from {first} to {last}?",
    )
    return question, ", ".join(map(str, numbers)) + "."


def _name_some(rng: Random) -> Turn:
    count, category = rng.randint(2, 5), rng.choice(list(CATEGORIES))
    question = pick(
        rng,
        f"Name {NUMBER_WORDS[count]} {category}.",
        f"List {NUMBER_WORDS[count]} {category}.",
        f"Tell me {NUMBER_WORDS[count]} {category}.",
        f"Give me {count} {category}.",
    )
    return question, capitalized(listing(rng.sample(CATEGORIES[category], count))) + "."


def _write_list(rng: Random) -> Turn:
    count, category = rng.randint(2, 5), rng.choice(list(CATEGORIES))
    question = pick(
        rng,
        f"Write a list of {count} {category}.",
        f"Make a list with {NUMBER_WORDS[count]} {category}.",
    )
    return question, "\n".join(f"- {word}" for word in rng.sample(CATEGORIES[category], count))


def _greet_somebody(rng: Random) -> Turn:
    name = rng.choice(NAMES)
    words = pick(rng, "hello", "goodbye", "good morning", "thank you", "good night")
    question = pick(rng, f"Say {words} to {name}.", f"Please say {words} to {name}.")
    return question, f"{capitalized(words)}, {name}!"


def _write_sentence(rng: Random) -> Turn:
    word = rng.choice(THINGS + ANIMALS + FOODS)
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    question = pick(
        rng,
        f"Write a sentence with the word {word}.",
        f"Make a sentence with {word}.",
        f"Use the word {word} in a sentence.",
    )
    if word in FOODS:
        return question, f"{name} bought some {word} at the market."
    if word in ANIMALS:
        animal = with_article(rng.choice(ADJECTIVES) + " " + word)
        return question, f"{name} saw {animal} in the {place}."
    thing = with_article(rng.choice(COLORS) + " " + word)
    spot = rng.choice(SPOTS)
    return question, pick(rng, f"{name} found {thing} in the {place}.", f"{name} left the {word} {spot}.")


def _reverse(rng: Random) -> Turn:
    words = rng.sample(WORDS, rng.randint(3, 8))
    return f"Write these words in reverse order: {' '.join(words)}", " ".join(words[::-1])


def _word_at(rng: Random) -> Turn:
    words = rng.sample(WORDS, rng.randint(3, 8))
    ordinal, i = pick(rng, ("first", 0), ("last", -1), ("second", 1))
    question = pick(
        rng,
        f"What is the {ordinal} word here: {' '.join(words)}",
        f"Give me the {ordinal} word of this list: {', '.join(words)}",
    )
    return question, f"The {ordinal} word is {words[i]}."


def _count_words(rng: Random) -> Turn:
    words = rng.sample(WORDS, rng.randint(2, 9))
    return f"How many words are here: {' '.join(words)}", f"There are {NUMBER_WORDS[len(words)]} words."


def _repeat(rng: Random) -> Turn:
    words = " ".join([rng.choice(WORDS) for _ in range(rng.randint(3, 30))])
    lead = pick(
        rng, "Repeat: ", "Repeat after me: ", "Please repeat: ", "Copy this text: ", "Say this: "
    )  # fmt: skip
    return lead + words, words


def _word_after(rng: Random) -> Turn:
    words = rng.sample(WORDS, rng.randint(6, 24))
    i = rng.randrange(len(words) - 1)
    question = f"Words: {' '.join(words)}\nWhat comes after {words[i]}?"
    return question, f"{capitalized(words[i + 1])} comes after {words[i]}."


def _say_often(rng: Random) -> Turn:
    count, word = rng.randint(2, 8), rng.choice(WORDS)
    question = pick(rng, f"Say {word} {NUMBER_WORDS[count]} times.", f"Write {word} {count} times.")
    return question, " ".join([word] * count)


def _sort(rng: Random) -> Turn:
    in_order = sorted(rng.sample(range(100), rng.randint(3, 6)))
    shuffled = list(in_order)
    rng.shuffle(shuffled)
    return f"Sort these numbers: {', '.join(map(str, shuffled))}", ", ".join(map(str, in_order))


INSTRUCTIONS: tuple[Callable[[Random], Turn], ...] = (
    _count,
    _name_some,
    _write_list,
    _greet_somebody,
    _write_sentence,
    _reverse,
    _word_at,
    _count_words,
    _repeat,
    _word_after,
    _say_often,
    _sort,
)


def json_task(rng: Random) -> tuple[str, str, str]:
    """A request for JSON, the JSON, and what the system message says of its form."""
    chance = rng.random()
    person = _person(rng)
    if chance < 0.35:
        question, answer = _person_as_json(rng, person)
        return question, answer, ""
    if chance < 0.60:
        question, answer = _extract(rng)
        return question, answer, ""
    if chance < 0.75:
        count, category = rng.randint(2, 4), pick(rng, "animals", "colours", "foods", "cities")
        question = f"Give me a JSON list of {NUMBER_WORDS[count]} {category}."
        return question, json.dumps(rng.sample(CATEGORIES[category], count)), ""
    return _follow_schema(rng)


def _person(rng: Random) -> list[tuple[str, Any]]:
    return [
        ("name", rng.choice(NAMES)),
        ("age", rng.randint(3, 99)),
        ("city", rng.choice(CITIES)),
        ("color", rng.choice(COLORS)),
        ("pet", rng.choice(ANIMALS)),
    ]


def _person_as_json(rng: Random, person: list[tuple[str, Any]]) -> Turn:
    person = person + [("likes", rng.choice(FOODS)), ("happy", rng.random() < 0.5)]
    fields = rng.sample(person, rng.choice((2, 3, 3, 4, 4, 5, 5)))
    told = ", ".join(f"{key} {_spoken(value)}" for key, value in fields)
    question = pick(
        rng,
        f"Write this as JSON: {told}",
        f"Give me JSON with {told}.",
        f"Make a JSON object: {told}",
    )
    return question, json.dumps(dict(fields))


def _spoken(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(rng: Random) -> tuple[str, dict[str, str]]:
    """A sentence and what it tells, by key."""
    told = {
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS),
        "color": rng.choice(COLORS),
        "place": rng.choice(PLACES),
        "day": rng.choice(DAYS),
    }
    name, thing, color, place, day = told.values()
    colored_thing = with_article(f"{color} {thing}")
    sentence = pick(
        rng,
        f"On {day} {name} left the {color} {thing} in the {place}.",
        f"{name} took {colored_thing} to the {place} on {day}.",
        f"In the {place}, {name} found {colored_thing} on {day}.",
    )
    return sentence, told


def _some_keys(rng: Random, told: dict[str, str]) -> list[str]:
    return rng.sample(list(told), rng.choice((2, 3, 3, 4, 4, 5)))


def _extract(rng: Random) -> Turn:
    sentence, told = _sentence(rng)
    keys = _some_keys(rng, told)
    question = pick(
        rng,
        f"Extract {listing(keys)} as JSON: {sentence}",
        f"{sentence}\nAnswer in JSON with the keys {listing(keys)}.",
    )
    return question, json.dumps({key: told[key] for key in keys})


def _follow_schema(rng: Random) -> tuple[str, str, str]:
    sentence, told = _sentence(rng)
    keys = _some_keys(rng, told)
    schema: dict[str, Any] = {"type": "object", "properties": {key: {"type": "string"} for key in keys}}
    if rng.random() < 0.6:
        schema["required"] = keys
    form = (
        f"\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{json.dumps(schema)}"
    )
    return sentence, json.dumps({key: told[key] for key in keys}), form
