"""Small helpers for writing sentences."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Option = TypeVar("Option")


def pick(rng: Random, *options: Option) -> Option:
    """One of the options. All of them are written before one is drawn."""
    return rng.choice(options)


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def capitalized(text: str) -> str:
    """The text with a capital first letter; the others stay."""
    return text[0].upper() + text[1:]


def uncapitalized(text: str) -> str:
    """The text with a small first letter."""
    return text[0].lower() + text[1:]


def listing(words: Sequence[str]) -> str:
    """The words with commas, and "and" before the last."""
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + " and " + words[-1]


def digits(rng: Random, count: int = 4) -> str:
    """A number of so many digits."""
    return "".join(rng.choice("0123456789") for _ in range(count))


def rephrased(rng: Random, question: str) -> str:
    """The same question, in four cases of ten in other words."""
    chance = rng.random()
    small = question if question.startswith("I ") else uncapitalized(question)
    if chance < 0.60:
        return question
    if chance < 0.68:
        return "Please tell me: " + small
    if chance < 0.76:
        return "I have a question. " + question
    if chance < 0.84:
        lead = pick(rng, "Do you know this? ", "Tell me, ", "Question: ")
        return lead + (question if rng.random() < 0.5 else small)
    if chance < 0.92:
        return uncapitalized(question).rstrip("?.!")
    return question.rstrip("?.") + pick(rng, "?", " please?", ", please?")
