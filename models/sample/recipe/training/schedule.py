"""What a run does when, and on what: the numbers that were found by trying. Read this first."""

from typing import NamedTuple

# ---- Stages ---------------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """A part of the run, by its share of the time."""

    name: str
    share: float
    # Whether tokens attend to what the indexer chooses, or to everything.
    sparse: bool
    # Whether the indexer learns, and whether everything else does.
    teaches_indexer: bool
    teaches_model: bool


# As in the report on DeepSeek-V3.2: pre-training with dense attention; a warm-up in which the indexer alone learns to
# imitate that attention; then sparse attention, with everything learning. Copying forms in the dense stage or not at
# all, so that it is the longest. In the last one rows are long.
STAGES = (
    Stage("dense", 0.55, sparse=False, teaches_indexer=False, teaches_model=True),
    Stage("warmup", 0.04, sparse=False, teaches_indexer=True, teaches_model=False),
    Stage("sparse", 0.27, sparse=True, teaches_indexer=True, teaches_model=True),
    Stage("long", 0.14, sparse=True, teaches_indexer=True, teaches_model=True),
)

# ---- Rows -----------------------------------------------------------------------------------------------------------

ROW_TOKENS = 512
# From the middle of the dense stage on, half as many rows of twice the length: longer ones are learned from better, and
# slower.
DOUBLE_ROWS_FROM = 0.5
LONG_ROW_TOKENS = (1024, 1024, 2048, 2048, 4096, 8192)

# Half of the rows jump ahead in their position numbers, in up to three places: so far distances are met in short rows.
JUMPS_MAX = 3
JUMP_POSITIONS_MAX = 12000
# Below the model's max_position_embeddings of 16,384.
POSITIONS_MAX = 16000

# The share of tokens from each domain. `repeat` are random ids, repeated: what teaches copying soonest. Much recall,
# many similar facts, lists and sums: in a first run the model found facts, but not the right one of eight.
MIXTURE = {
    "chat": 0.24, "story": 0.02, "instr": 0.13, "json": 0.08, "tools": 0.07, "recall": 0.12, "facts": 0.10, "kv": 0.09,
    "sums": 0.05, "book": 0.03, "asp": 0.02, "repeat": 0.05,
}  # fmt: skip
# In the last stage: a half of it long documents.
LONG_MIXTURE = {
    "chat": 0.12, "instr": 0.05, "json": 0.04, "tools": 0.06, "recall": 0.08, "facts": 0.06, "kv": 0.04, "sums": 0.03,
    "book": 0.03, "repeat": 0.01, "long3500": 0.12, "long7000": 0.14, "long14000": 0.14, "long28000": 0.08,
}  # fmt: skip
# What may begin in the middle where it does not fit: its end is what it is for, and its beginning is long.
CUT_AT_BEGINNING = ("tools", "book", "asp", "recall", "long3500", "long7000", "long14000", "long28000")
# What it is measured on while it trains.
HELD_OUT_DOMAINS = (
    "chat", "story", "instr", "json", "tools", "recall", "facts", "kv", "sums", "book", "asp",
)  # fmt: skip
ANSWER_DOMAINS = ("chat", "instr", "json", "tools", "recall", "facts", "kv", "sums")

# ---- Learning rates -------------------------------------------------------------------------------------------------

# Muon's, for matrices. At 0.02 attention logits saturate and nothing is ever copied.
MATRIX_RATE = 0.007
# Of the projections to queries, keys and values, which without a norm of their own have to learn slower.
ATTENTION_RATE = 0.005
# AdamW's.
EMBEDDING_RATE = 0.3 * MATRIX_RATE
VECTOR_RATE = 1e-3
INDEXER_RATE = 2e-3
# By how much the routers' biases move towards the experts that are used too little.
ROUTER_BIAS_RATE = 2e-3

WARM_UP_STEPS = 60
# Rates fall over the last part of the run, in a line, to almost nothing.
FALL_SHARE = 0.6
RATE_MIN = 0.02
# The indexer's rate falls less: it follows an attention that still changes.
INDEXER_RATE_MIN = 0.1


def rate(step: int, share: float) -> float:
    """The factor of all learning rates at this step, `share` of the run being over."""
    return min(1, (step + 1) / WARM_UP_STEPS) * min(1, max(RATE_MIN, (1 - share) / FALL_SHARE))


# ---- Losses ---------------------------------------------------------------------------------------------------------

# Weight of the draft for the token after next.
DRAFT_WEIGHT = 0.3
# Weight of attention guidance (training/guidance.py) at the start; it falls to nothing by the end of the dense stage.
GUIDANCE_WEIGHT = 0.6


def guidance_weight(stage: Stage, step: int, share: float) -> float:
    """The weight at this step: at every other one, since it makes a step much slower."""
    if stage != STAGES[0] or step % 2 == 0:
        return 0.0
    return max(0.0, 1 - share / STAGES[0].share) * GUIDANCE_WEIGHT
