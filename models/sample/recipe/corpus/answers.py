"""Questions with one right answer: what is known, what can be counted, and what was said before."""

from dataclasses import dataclass
from random import Random

from corpus.knowledge import ANIMAL_SOUNDS, CAPITALS, COLOUR_OF, FACTS, LEGS, OPPOSITES
from corpus.markup import Turn
from corpus.wording import capitalized, pick, rephrased, with_article
from corpus.words import ANIMALS, CITIES, COLORS, DAYS, FOODS, MONTHS, NAMES, THINGS


def fact(rng: Random) -> Turn:
    """A question about what everybody knows."""
    question, answer = _plain_fact(rng)
    return rephrased(rng, question), answer


def _plain_fact(rng: Random) -> Turn:
    chance = rng.random()
    if chance < 0.40:
        return rng.choice(FACTS)
    if chance < 0.52:
        country = rng.choice(list(CAPITALS))
        question = pick(
            rng,
            f"What is the capital of {country}?",
            f"What is the capital city of {country}?",
            f"Name the capital of {country}.",
        )
        return question, f"The capital of {country} is {CAPITALS[country]}."
    if chance < 0.60:
        sound_of = rng.choice(list(ANIMAL_SOUNDS))
        animal = with_article(sound_of)
        question = pick(rng, f"What does {animal} say?", f"What sound does {animal} make?")
        return question, f"{capitalized(animal)} says {ANIMAL_SOUNDS[sound_of]}."
    if chance < 0.72:
        return _opposite(rng)
    if chance < 0.78:
        thing = rng.choice(list(COLOUR_OF))
        question = pick(rng, f"What colour is {thing}?", f"What color is {thing}?")
        return question, f"{capitalized(thing)} is {COLOUR_OF[thing]}."
    if chance < 0.84:
        walker = rng.choice(list(LEGS))
        animal = with_article(walker)
        return f"How many legs does {animal} have?", f"{capitalized(animal)} has {LEGS[walker]} legs."
    if chance < 0.92:
        return _neighbour(rng)
    word = rng.choice(ANIMALS + THINGS)
    thing = with_article(word)
    yes = f"Yes, {thing} is an animal."
    no = f"No, {thing} is not an animal."
    return f"Is {thing} an animal?", yes if word in ANIMALS else no


def _opposite(rng: Random) -> Turn:
    word = rng.choice(list(OPPOSITES))
    opposite = OPPOSITES[word]
    # Light has two opposites: it is given, not asked for.
    turned = "light" not in (word, opposite) and rng.random() >= 0.5
    if turned:
        word, opposite = opposite, word
    question = pick(rng, f"What is the opposite of {word}?", f"Tell me the opposite of {word}.")
    return question, f"The opposite of {word} is {opposite}."


def _neighbour(rng: Random) -> Turn:
    """The day or month before or after another."""
    ring = pick(rng, DAYS, MONTHS)
    i = rng.randrange(len(ring))
    direction = pick(rng, "after", "before")
    neighbour = ring[(i + (1 if direction == "after" else -1)) % len(ring)]
    question = pick(rng, f"What comes {direction} {ring[i]}?", f"What is {direction} {ring[i]}?")
    return question, f"{neighbour} comes {direction} {ring[i]}."


@dataclass(frozen=True)
class Sum:
    """A question of small arithmetic, its answer, and how it is found."""

    question: str
    answer: str
    thought: str

    @property
    def turn(self) -> Turn:
        """Question and answer."""
        return self.question, self.answer


def arithmetic(rng: Random) -> Sum:
    """Adds, takes away, multiplies or compares two small numbers."""
    chance = rng.random()
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if chance < 0.45:
        question = pick(
            rng,
            f"What is {a} plus {b}?",
            f"What is {a} + {b}?",
            f"Add {a} and {b}.",
            f"{a} + {b} = ?",
            f"How much is {a} plus {b}?",
        )
        return Sum(question, f"{a} plus {b} is {a + b}.", f"I add {a} and {b}. The sum is {a + b}.")
    a, b = max(a, b), min(a, b)
    if chance < 0.75:
        question = pick(
            rng,
            f"What is {a} minus {b}?",
            f"What is {a} - {b}?",
            f"{a} - {b} = ?",
            f"How much is {a} minus {b}?",
        )
        return Sum(question, f"{a} minus {b} is {a - b}.", f"I take {b} from {a}. {a - b} is left.")
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if chance < 0.85:
        question = pick(rng, f"What is {a} times {b}?", f"How much is {a} times {b}?")
        answer = f"{a} times {b} is {a * b}."
        return Sum(question, answer, f"I multiply {a} by {b}. The product is {a * b}.")
    if a == b:
        b += 1
    question = pick(rng, f"Which is bigger, {a} or {b}?", f"Which number is larger, {a} or {b}?")
    bigger, smaller = max(a, b), min(a, b)
    answer = f"{bigger} is bigger than {smaller}."
    return Sum(question, answer, f"I compare {a} and {b}. {bigger} is the bigger one.")


def word_problem(rng: Random) -> Sum:
    """The same in a sentence: somebody gets some things, or gives some away."""
    name = rng.choice(NAMES)
    things = rng.choice("apples nuts books cups eggs stones keys balls".split())
    a, b = rng.randint(2, 12), rng.randint(1, 8)
    how_many = f"How many {things} does {name} have now?"
    if rng.random() < 0.5:
        return Sum(
            f"{name} has {a} {things} and gets {b} more. {how_many}",
            f"{name} has {a + b} {things} now.",
            f"{name} starts with {a} {things} and gets {b}. {a} plus {b} is {a + b}.",
        )
    a, b = max(a, b), min(a, b)
    return Sum(
        f"{name} has {a} {things} and gives away {b}. {how_many}",
        f"{name} has {a - b} {things} now.",
        f"{name} starts with {a} {things} and loses {b}. {a} minus {b} is {a - b}.",
    )


@dataclass(frozen=True)
class _Told:
    """Something that the user tells, and asks for later."""

    told: Turn
    asked: Turn


def memory(rng: Random) -> list[Turn]:
    """What the user says about himself, asked for some turns later."""
    told = rng.sample(_things_to_tell(rng), rng.randint(1, 3))
    turns = [thing.told for thing in told]
    turns += [fact(rng) for _ in range(rng.randint(0, 2))]
    turns += [thing.asked for thing in rng.sample(told, rng.randint(1, len(told)))]
    return turns


def _things_to_tell(rng: Random) -> list[_Told]:
    name, color, animal = rng.choice(NAMES), rng.choice(COLORS), rng.choice(ANIMALS)
    city, food = rng.choice(CITIES), rng.choice(FOODS)
    pet = with_article(animal)
    own_name = _Told(
        (
            pick(rng, f"My name is {name}.", f"Hello, I am {name}.", f"Hi! My name is {name}."),
            pick(rng, f"Nice to meet you, {name}!", f"Hello, {name}! How can I help you?"),
        ),
        (pick(rng, "What is my name?", "Do you remember my name?", "Who am I?"), f"Your name is {name}."),
    )
    own_color = _Told(
        (
            pick(rng, f"My favourite colour is {color}.", f"I like the colour {color} best."),
            f"{capitalized(color)} is a lovely colour.",
        ),
        ("What is my favourite colour?", f"Your favourite colour is {color}."),
    )
    own_city = _Told(
        (pick(rng, f"I live in {city}.", f"My home is in {city}."), f"{city} is a nice place to live."),
        ("Where do I live?", f"You live in {city}."),
    )
    own_pet = _Told(
        (pick(rng, f"I have {pet}.", f"My pet is {pet}."), f"How nice! I hope your {animal} is well."),
        (pick(rng, "What pet do I have?", "Which animal do I have?"), f"You have {pet}."),
    )
    own_food = _Told(
        (
            pick(rng, f"I like to eat {food}.", f"My favourite food is {food}."),
            f"I hope you will have some {food} today.",
        ),
        (pick(rng, "What do I like to eat?", "What is my favourite food?"), f"You like to eat {food}."),
    )
    return [own_name, own_color, own_city, own_pet, own_food]
