"""Conversations of a few turns, of everything that the model can do without tools."""

from random import Random

from corpus.answers import Sum, arithmetic, fact, memory, word_problem
from corpus.knowledge import FAREWELLS, GREETING_ANSWERS, GREETINGS, SYSTEM_PROMPTS
from corpus.markup import Turn, chat
from corpus.stories import Story, story
from corpus.tasks import instruction, json_task
from corpus.wording import pick, with_article
from corpus.words import ANIMALS, COLORS, NAMES, THINGS


def conversation(rng: Random) -> str:
    """A story to tell or to read, facts, sums, what was said before, or a mixture of tasks."""
    kind = rng.random()
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 else ""
    turns: list[Turn] = []
    thought = None
    if rng.random() < 0.2:
        turns.append((rng.choice(GREETINGS), rng.choice(GREETING_ANSWERS)))
    if kind < 0.24:
        turns += _told_story(rng)
    elif kind < 0.46:
        turns += _read_story(rng)
    elif kind < 0.66:
        turns += [fact(rng) for _ in range(rng.randint(1, 4))]
    elif kind < 0.78:
        sums = [_sum(rng, plain=0.7) for _ in range(rng.randint(1, 3))]
        turns += [one.turn for one in sums]
        thought = sums[-1].thought if rng.random() < 0.4 else None
    elif kind < 0.92:
        turns += memory(rng)
    else:
        turns += [pick(rng, fact, instruction)(rng) for _ in range(rng.randint(1, 4))]
    if thought is None and rng.random() < 0.15:
        # Neither a farewell nor a thought belongs after a story that was told, nor a farewell after one that was read.
        if rng.random() < 0.5 and kind >= 0.46:
            turns.append(rng.choice(FAREWELLS))
        elif kind >= 0.24 and rng.random() < 0.7:
            thought = _passing_thought(rng, turns[-1][0])
    return chat(turns, system, thought)


def _passing_thought(rng: Random, question: str) -> str:
    asks = f"The user asks: {question}" if len(question) < 80 else "The user asks about the text."
    return pick(rng, asks, "I know the answer.", "This is a simple question.")


def _sum(rng: Random, plain: float) -> Sum:
    return arithmetic(rng) if rng.random() < plain else word_problem(rng)


def _told_story(rng: Random) -> list[Turn]:
    """The user asks for a story, and perhaps about it."""
    animal, thing, name = rng.choice(ANIMALS), rng.choice(THINGS), rng.choice(NAMES)
    color = rng.choice(COLORS)
    an_animal, a_thing = with_article(animal), with_article(thing)
    wish = rng.randrange(5)
    told: Story
    if wish == 0:
        told = story(rng, animal, thing)
        request = pick(
            rng,
            f"Tell me a story about {an_animal} and {a_thing}.",
            f"Please tell a short story with {a_thing} and {an_animal}.",
            f"Write a short story about {an_animal} and {a_thing}.",
        )
    elif wish == 1:
        told = story(rng, animal)
        request = pick(
            rng,
            f"I want to hear a story about {an_animal}.",
            f"Tell me a story about {an_animal}.",
            f"Can you tell me a story about {an_animal}?",
            f"Write a story about {an_animal}.",
        )
    elif wish == 2:
        told = story(rng, None, thing, color, name)
        colored_thing = with_article(f"{color} {thing}")
        request = pick(
            rng,
            f"Tell me a story about {name} and {colored_thing}.",
            f"Write a story in which {name} has {colored_thing}.",
        )
    elif wish == 3:
        told = story(rng, name=name)
        request = pick(rng, f"Tell me a story about {name}.", f"Please tell a story about {name}.")
    else:
        told = story(rng)
        request = pick(
            rng,
            "Tell me a story.",
            "Please tell me a story.",
            "Tell me a short story.",
            "Can you tell me a story?",
            "I would like to hear a story.",
            "Write a short story.",
        )
    return [(request, told.text)] + rng.sample(told.questions, rng.randint(0, 2))


def _read_story(rng: Random) -> list[Turn]:
    """The user gives a story, and asks about it."""
    read = story(rng)
    (first, answer), *more = rng.sample(read.questions, rng.randint(1, 3))
    request = pick(
        rng,
        f"{read.text}\n\n{first}",
        f"{read.text}\n{first}",
        f"Read this story: {read.text}\n\n{first}",
        f"{first}\n\n{read.text}",
    )
    return [(request, answer)] + more


def instructions(rng: Random) -> str:
    """Instructions, one after another."""
    turns = [instruction(rng) for _ in range(rng.randint(1, 3))]
    return chat(turns, rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else "")


def json_conversation(rng: Random) -> str:
    """One request for JSON."""
    question, answer, form = json_task(rng)
    prompt = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.3 or form else ""
    return chat([(question, answer)], prompt + form)


def sums(rng: Random) -> str:
    """Small arithmetic, several questions in a row."""
    return chat([_sum(rng, plain=0.85).turn for _ in range(rng.randint(3, 8))])
