"""Stories of a small simulated world, told in simple sentences, with questions about them."""

from dataclasses import dataclass
from random import Random

from corpus.markup import Turn
from corpus.wording import pick, with_article
from corpus.words import (
    ADJECTIVES,
    ANIMALS,
    COLORS,
    FOODS,
    NAMES,
    PLACES,
    SHE_NAMES,
    SPOTS,
    THINGS,
    WEATHERS,
)


@dataclass(frozen=True)
class Story:
    """A story and what can be asked about it."""

    text: str
    questions: list[Turn]


@dataclass(frozen=True)
class World:
    """Who and what a story has."""

    hero: str
    # What the hero is, with an article: "a brave fox".
    hero_kind: str
    he: str
    his: str
    him: str
    friend: str
    friend_kind: str
    color: str
    thing: str
    # Where the hero goes, and where help is.
    place: str
    other_place: str
    # Where the thing is at first, and in the end.
    spot: str
    last_spot: str
    food: str
    weather: str

    @property
    def colored_thing(self) -> str:
        """The thing with its colour and an article."""
        return with_article(f"{self.color} {self.thing}")


def story(
    rng: Random,
    animal: str | None = None,
    thing: str | None = None,
    color: str | None = None,
    name: str | None = None,
) -> Story:
    """A story about what is given; the rest is drawn."""
    hero, friend = rng.sample(NAMES, 2)
    if name is not None:
        hero = name
        if friend == name:
            friend = rng.choice([other for other in NAMES if other != name])
    if animal is None and name is None and rng.random() < 0.5:
        animal = rng.choice(ANIMALS)
    world = _world(rng, hero, friend, animal, thing, color)
    sentences = _beginning(rng, world)
    plot = rng.choice(PLOTS)
    sentences += plot(rng, world)
    sentences.append(_ending(rng, world))
    return Story(_paragraphs(rng, sentences), _questions(world, animal, plot))


def _world(rng: Random, hero: str, friend: str, animal: str | None, thing: str | None, color: str | None) -> World:
    is_she = hero in SHE_NAMES
    hero_kind = with_article(_kind(rng, animal, is_she))
    color = color or rng.choice(COLORS)
    thing = thing or rng.choice(THINGS)
    place, other_place = rng.sample(PLACES, 2)
    spot, last_spot = rng.sample(SPOTS, 2)
    food, weather = rng.choice(FOODS), rng.choice(WEATHERS)
    he, his, him = ("she", "her", "her") if is_she else ("he", "his", "him")
    friend_kind = with_article(rng.choice(ANIMALS))
    return World(
        hero=hero, hero_kind=hero_kind, he=he, his=his, him=him, friend=friend, friend_kind=friend_kind,
        color=color, thing=thing, place=place, other_place=other_place, spot=spot, last_spot=last_spot,
        food=food, weather=weather,
    )  # fmt: skip


def _kind(rng: Random, animal: str | None, is_she: bool) -> str:
    if animal is not None:
        return f"{rng.choice(ADJECTIVES)} {animal}"
    young = "girl" if is_she else "boy"
    return pick(rng, f"{rng.choice(ADJECTIVES)} {young}", f"{rng.choice(ADJECTIVES)} child")


def _beginning(rng: Random, w: World) -> list[str]:
    he_capital = w.he.capitalize()
    return [
        pick(
            rng,
            f"Once upon a time there was {w.hero_kind} named {w.hero}.",
            f"{w.hero} was {w.hero_kind}.",
            f"There once was {w.hero_kind} whose name was {w.hero}.",
            f"In a small house near the {w.place} lived {w.hero_kind} called {w.hero}.",
        ),
        pick(
            rng,
            f"{he_capital} had {w.colored_thing}.",
            f"{he_capital} loved {w.his} {w.color} {w.thing} more than anything.",
            f"For {w.his} birthday {w.he} got {w.colored_thing}.",
            f"{w.hero} owned {w.colored_thing} and kept it {w.spot}.",
        ),
        pick(
            rng,
            f"One day {w.weather}, and {w.hero} went to the {w.place}.",
            f"One morning, when {w.weather}, {w.hero} walked to the {w.place}.",
            f"{w.hero} took the {w.thing} and went to the {w.place}. Outside, {w.weather}.",
        ),
    ]


def _lost_and_found(rng: Random, w: World) -> list[str]:
    return [
        pick(
            rng,
            f"On the way home {w.he} lost the {w.thing}.",
            f"But when {w.he} came home, the {w.thing} was gone.",
            f"There {w.he} dropped the {w.thing} and did not notice it.",
        ),
        pick(
            rng,
            f"{w.hero} was very sad.",
            f"{w.hero} cried and cried.",
            f'"Where is my {w.thing}?" said {w.hero}.',
        ),
        pick(
            rng,
            f"Then {w.friend}, {w.friend_kind}, came by.",
            f"{w.he.capitalize()} met {w.friend}, {w.friend_kind} who lived near the {w.other_place}.",
            f"Soon {w.friend_kind} named {w.friend} came along the road.",
        ),
        pick(
            rng,
            f'"Why are you sad?" asked {w.friend}.',
            f'"What is the matter?" said {w.friend}.',
            f'"Can I help you?" {w.friend} asked.',
        ),
        pick(
            rng,
            f'"I have lost my {w.color} {w.thing}," said {w.hero}.',
            f'"My {w.thing} is gone," {w.hero} answered.',
        ),
        pick(
            rng,
            f"They looked in the {w.place} and in the {w.other_place}.",
            f"Together they searched the whole {w.other_place}.",
            "They looked everywhere.",
        ),
        pick(
            rng,
            f"At last {w.friend} found the {w.thing} {w.last_spot}.",
            f"In the end they found it {w.last_spot}.",
            f"{w.friend} looked {w.last_spot}, and there was the {w.thing}!",
        ),
    ]


def _gift(rng: Random, w: World) -> list[str]:
    return [
        pick(
            rng,
            f"There {w.he} saw {w.friend}, {w.friend_kind}, who looked lonely.",
            f"{w.friend}, {w.friend_kind}, was sitting there alone.",
        ),
        pick(
            rng,
            f'"Would you like to play with me?" asked {w.hero}.',
            f'"Do you want some {w.food}?" said {w.hero}.',
            f'"Come and sit with me," said {w.hero}.',
        ),
        pick(
            rng,
            f'"Oh yes," said {w.friend}, "nobody ever asks me."',
            f'"I would like that very much," said {w.friend}.',
        ),
        pick(rng, "They played until it was dark.", f"They ate {w.food} and laughed together."),
        f"Then {w.hero} gave {w.friend} the {w.color} {w.thing}.",
        pick(
            rng,
            f"{w.friend} put it {w.last_spot} and looked at it every day.",
            f"{w.friend} kept it {w.last_spot} for many years.",
        ),
    ]


def _trouble(rng: Random, w: World) -> list[str]:
    return [
        pick(
            rng,
            f"Suddenly {w.he} fell into a deep hole.",
            f"Then {w.he} got stuck in the mud.",
            f"There {w.he} could not find the way back.",
        ),
        pick(rng, f'"Help! Help!" cried {w.hero}.', f"{w.hero} called as loudly as {w.he} could."),
        pick(
            rng,
            f"{w.friend}, {w.friend_kind}, heard {w.him} and came running.",
            f"Luckily {w.friend_kind} named {w.friend} was not far away.",
        ),
        pick(
            rng,
            f"{w.friend} fetched a rope from the {w.other_place} and pulled {w.him} out.",
            f"{w.friend} took {w.him} by the hand and led {w.him} to the {w.other_place}.",
        ),
        pick(
            rng,
            f'"Thank you," said {w.hero}. "You are a true friend."',
            f'"You saved me!" said {w.hero}.',
        ),
        f"{w.hero} put the {w.thing} {w.last_spot} and made some {w.food} for {w.friend}.",
    ]


def _quarrel(rng: Random, w: World) -> list[str]:
    return [
        pick(
            rng,
            f"{w.friend}, {w.friend_kind}, wanted the {w.thing} too.",
            f"There {w.friend}, {w.friend_kind}, took the {w.thing} away.",
        ),
        f'"It is mine!" said {w.hero}.',
        pick(
            rng,
            f'"No, I want it," said {w.friend}.',
            f'"I only wanted to look at it," said {w.friend}.',
        ),
        pick(
            rng,
            "They were both angry and did not speak all day.",
            "They pulled and pulled, and both fell down.",
        ),
        pick(
            rng,
            f"In the evening {w.friend} came to the {w.other_place} with some {w.food}.",
            f"The next day {w.friend} brought {w.food} to the {w.other_place}.",
        ),
        pick(rng, f'"I am sorry," said {w.friend}.', f'"Let us be friends again," said {w.friend}.'),
        f"They shared the {w.food} and put the {w.thing} {w.last_spot}.",
    ]


PLOTS = (_lost_and_found, _gift, _trouble, _quarrel)
# In these the friend helps the hero.
PLOTS_WITH_HELP = (_lost_and_found, _trouble)


def _ending(rng: Random, w: World) -> str:
    return pick(
        rng,
        f"From that day on {w.hero} and {w.friend} were good friends.",
        "And they were happy ever after.",
        f"{w.hero} was {pick(rng, 'happy', 'glad')} and slept well that night.",
        f"After that, {w.hero} and {w.friend} met every day at the {w.other_place}.",
        f"Then {w.he} went home, because it was late.",
    )


def _paragraphs(rng: Random, sentences: list[str]) -> str:
    """The sentences as one text, half of the time in one paragraph."""
    paragraphs = rng.choice([1, 1, 2, 3])
    sentences_each = len(sentences) // paragraphs + 1
    text = sentences[0]
    for i, sentence in enumerate(sentences[1:], 1):
        ends = paragraphs > 1 and i % sentences_each == 0
        text += ("\n\n" if ends else " ") + sentence
    return text


def _questions(w: World, animal: str | None, plot: object) -> list[Turn]:
    hero = animal or "hero"
    questions = [
        (f"What was the name of the {hero}?", f"The name of the {hero} was {w.hero}."),
        (f"What colour was the {w.thing}?", f"The {w.thing} was {w.color}."),
        (f"Where was the {w.thing} in the end?", f"The {w.thing} was {w.last_spot}."),
        (f"Who was {w.friend}?", f"{w.friend} was {w.friend_kind}."),
        (f"Where did {w.hero} go?", f"{w.hero} went to the {w.place}."),
    ]
    if plot in PLOTS_WITH_HELP:
        questions.append((f"Who helped {w.hero}?", f"{w.friend} helped {w.hero}."))
    return questions
