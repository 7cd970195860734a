"""Recall by distance: a fact planted so many tokens before the answer to its question, in held-out prose."""

from random import Random

import torch

from corpus.public_text import book_paragraphs
from corpus.recall import Filler, Needle, needles, prose_filler
from evaluation.subject import Subject
from training.attention import Choice
from training.vocabulary import ASSISTANT_ID, BEGIN_ID, END_ID, END_THINK_ID, USER_ID

# Distance in tokens, and trials: far ones take long.
TRIALS = ((128, 24), (256, 24), (512, 24), (1024, 16), (2048, 12), (4096, 8), (8192, 5))
# Facts of the same forms between, and the shortest distance that has room for them.
OTHERS = 7
OTHERS_DISTANCE_MIN = 256
# Beyond this the last tokens alone find nothing, as they must.
WINDOW_DISTANCE_MAX = 2048
TOKENS_BEFORE_FACT = 60
READ = "I have read the text."


def measure(subject: Subject) -> None:
    """Prints how many answers are right in every token, with the indexer's choice, all tokens, and the last ones."""
    paragraphs = [p for book in book_paragraphs(subject.text, held_out=True) for p in book]
    filler = prose_filler(paragraphs)
    print("needle recall, exact answers, in held-out prose")
    for others in (0, OTHERS):
        for distance, trials in TRIALS:
            if others == 0 or distance >= OTHERS_DISTANCE_MIN:
                _at_distance(subject, filler, others, distance, max(2, trials // 2) if subject.quick else trials)


def _at_distance(subject: Subject, filler: Filler, others: int, distance: int, trials: int) -> None:
    rng = Random(5 + distance + others)
    choices = [c for c in Choice if c is not Choice.LAST or distance <= WINDOW_DISTANCE_MAX]
    right = dict.fromkeys(choices, 0)
    asked = 0
    for _ in range(trials):
        facts = needles(rng, 1 + others)
        context = _context(subject, rng, filler, facts, distance)
        if context is None:
            continue
        asked += 1
        answer = subject.encode(facts[0].answer) + [END_ID]
        ids = torch.tensor(context + answer)
        for choice in choices:
            said = subject.most_likely(ids[:-1], choice)
            right[choice] += bool((said[len(context) - 1 :] == torch.tensor(answer)).all())
    counts = ", ".join(f"{choice.value} {count}/{asked}" for choice, count in right.items())
    print(f"  {others} other facts, distance {distance:5d}: {counts}", flush=True)


def _context(subject: Subject, rng: Random, filler: Filler, facts: list[Needle], distance: int) -> list[int] | None:
    """A conversation up to the answer, which begins so many tokens after the end of the fact that it tells.

    The other facts, the turn in between and the question are among those tokens; none where they are more than that.
    """
    prose = subject.encode(filler(rng, distance * 6 + 500))
    statements = [subject.encode(f" {fact.statement} ") for fact in facts]
    while len(prose) < distance + 100:
        prose += subject.encode(" " + filler(rng, distance * 3))
    question = [USER_ID, *subject.encode(facts[0].question), ASSISTANT_ID, END_THINK_ID]
    read = [ASSISTANT_ID, END_THINK_ID, *subject.encode(READ), END_ID]
    gap = distance - len(question) - len(read) - sum(map(len, statements[1:]))
    if gap <= 0:
        return None
    places = sorted((rng.randrange(gap) for _ in facts[1:]), reverse=True)
    between = prose[:gap]
    for place, statement in zip(places, statements[1:]):
        between[place:place] = statement
    before = prose[gap : gap + TOKENS_BEFORE_FACT]
    return [BEGIN_ID, USER_ID, *before, *statements[0], *between, *read, *question]
