"""How often the draft of the token after next is what the model then says."""

import torch
from torch import Tensor

from evaluation.samples import SAMPLES, prompt
from evaluation.subject import Subject
from training.attention import Choice
from training.vocabulary import END_ID, END_THINK_ID, THINK_ID, VOCABULARY_SIZE

GENERATED = SAMPLES[:10]
GENERATED_TOKENS_MAX = 120
DOMAINS = ("chat", "story", "instr", "json", "tools", "recall", "book")
# Here every token counts, elsewhere the assistant's alone.
PROSE = ("story", "book")
DOCUMENTS = 40
DOCUMENT_TOKENS_MAX = 512
DOCUMENT_TOKENS_MIN = 8


def measure(subject: Subject) -> None:
    """Prints the share of accepted drafts, in generated answers and on held-out documents."""
    accepted = total = 0
    for sample in GENERATED:
        start = subject.encode(prompt(sample))
        ids = subject.generate(start, GENERATED_TOKENS_MAX)
        said, drafted = _both(subject, torch.tensor(ids))
        for i in range(len(start) - 1, len(ids) - 2):
            accepted += int(drafted[i] == said[i + 1])
            total += 1
    share = accepted / total
    print(f"MTP acceptance (second token, temperature 0) in ten generated answers: {share:.3f} of {total}", flush=True)
    for domain in DOMAINS:
        _held_out(subject, domain)


def _held_out(subject: Subject, domain: str) -> None:
    accepted = total = 0
    said_counts = torch.zeros(VOCABULARY_SIZE)
    for i in range(min(DOCUMENTS, subject.held_out.count(domain))):
        ids = subject.held_out.document(domain, i).long()[:DOCUMENT_TOKENS_MAX]
        if len(ids) < DOCUMENT_TOKENS_MIN:
            continue
        said, drafted = _both(subject, ids)
        for at in _counted(ids, domain):
            accepted += int(drafted[at] == said[at + 1])
            total += 1
            said_counts[said[at + 1]] += 1
    share, always = accepted / max(total, 1), (said_counts.max() / said_counts.sum()).item()
    always_most_frequent = f"(always the most frequent token: {always:.3f})"
    print(f"  on held-out {domain:7s} {share:.3f} of {total} {always_most_frequent}", flush=True)


def _counted(ids: Tensor, domain: str) -> list[int]:
    """The positions from which drafts count: in conversations those where the assistant speaks."""
    inside = domain in PROSE
    counted = []
    for at in range(len(ids) - 2):
        following = int(ids[at + 1])
        if following in (END_THINK_ID, THINK_ID):
            inside = True
        if inside:
            counted.append(at)
        if domain not in PROSE and following == END_ID:
            inside = False
    return counted


@torch.no_grad()
def _both(subject: Subject, ids: Tensor) -> tuple[Tensor, Tensor]:
    """After each position, the most likely next token, and the draft of the one after it."""
    output = subject.model(ids[None], Choice.INDEXER)
    return output.logits[0].argmax(-1), output.draft_logits[0].argmax(-1)
