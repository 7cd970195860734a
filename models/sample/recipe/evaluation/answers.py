"""Whole answers in held-out chats."""

from evaluation.subject import Subject
from training.attention import Choice
from training.schedule import ANSWER_DOMAINS
from training.scores import whole_answers

TOKENS_MAX = 640
DOCUMENTS = 40


def measure(subject: Subject) -> None:
    """Prints the share of answers that are right in every token."""
    print(f"whole answers right, held-out chats of at most {TOKENS_MAX} tokens")
    print("(each token after the right ones; stories and free choices cannot match)")
    for domain in ANSWER_DOMAINS:
        right = {}
        for choice in (Choice.INDEXER, Choice.ALL):
            share, total = whole_answers(
                subject.model, subject.held_out, domain, choice, tokens_max=TOKENS_MAX, documents=DOCUMENTS
            )
            right[choice.value] = f"{share:.3f} of {total}"
        print(f"  {domain:7s}", right, flush=True)
