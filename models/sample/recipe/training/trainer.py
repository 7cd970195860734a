"""One process of a training run: builds the model, goes through the stages, saves, and writes the checkpoint."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from corpus.whole import written_whole
from training import checkpoint, schedule
from training.attention import Choice
from training.config import ModelConfig
from training.guidance import guides
from training.model import Model
from training.optimizers import Optimizers, Parameters
from training.peers import Peers
from training.rows import Rows
from training.schedule import STAGES, Stage
from training.scores import held_out_loss, whole_answers
from training.tokenizer import tokenizer
from training.vocabulary import FIRST_ADDED_ID, FIRST_WORD_ID

LAST = "last.pt"
SEED = 3
# Between the processes of a run from the start; one that goes on has seeds of its own (`Trainer._resume`).
SEEDS_PER_PROCESS = 1000

LOG_STEPS = 10
PRINT_STEPS = 25
COPY_STEPS = 200


@dataclass(frozen=True)
class Options:
    """What a run is given."""

    data: Path
    out: Path
    minutes: float
    save_minutes: float
    threads: int
    # Rows of each process.
    batch: int


@dataclass
class Progress:
    """Where a run is."""

    # Of the time, 0 to 1.
    share: float = 0.0
    step: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Losses:
    """Of one step, in nats."""

    next_token: float
    draft: float
    # KL of the indexer; where it is not taught, the loss of guided heads.
    divergence: float
    # Of the busiest expert's load over the mean, averaged over layers.
    imbalance: float


class Trainer:
    """One process. The first one keeps the time, draws row lengths, saves, measures and prints."""

    def __init__(self, rank: int, peers: Peers, options: Options) -> None:
        torch.set_num_threads(options.threads)
        torch.manual_seed(0)
        self.rank, self.peers, self.options = rank, peers, options
        self.tokenizer = tokenizer(options.data)
        self.rows = Rows(options.data, self.tokenizer, "train")
        self.held_out = Rows(options.data, self.tokenizer, "val")
        self.config = ModelConfig()
        self.model = Model(self.config)
        self.parameters = Parameters.of(self.model, peers.count)
        self.optimizers = Optimizers(self.parameters, rank)
        self.progress = Progress()
        self.rng = Random(SEED + SEEDS_PER_PROCESS * rank)
        self.started = 0.0
        self.say: Callable[[str], None] = _print if rank == 0 else _nothing

    def run(self) -> None:
        """Trains until the time is over; goes on where it was when it was saved."""
        self._introduce()
        self._resume()
        options = self.options
        self.started = time.time() - self.progress.share * options.minutes * 60
        saved = time.time()
        log = (options.out / "log.jsonl").open("a", encoding="utf-8") if self.rank == 0 else None
        current: Stage | None = None
        while True:
            share, long_row, save = self._agree(time.time() - saved > options.save_minutes * 60)
            self.progress.share = share
            stage = _stage(share)
            if stage is None:
                break
            if stage != current:
                self._begin_stage(stage, current)
                current = stage
            # Not before: whoever goes on from a save writes no file of a stage that had ended by then.
            if save:
                self._save()
                saved = time.time()
            self._one_step(stage, int(long_row), log)
        self._end(current)

    def _introduce(self) -> None:
        total = sum(p.numel() for p in self.model.parameters())
        idle_share = 1 - self.config.num_experts_per_tok / self.config.n_routed_experts
        experts = sum(3 * layer.experts_gate_proj.numel() for layer in self.model.expert_layers())
        active = total - experts * idle_share
        counts = f"{total / 1e6:.2f}M (active {active / 1e6:.2f}M, with embeddings and MTP)"
        self.say(f"parameters {counts}; tokens per domain {self.rows.token_counts()}")

    def _agree(self, time_to_save: bool) -> list[float]:
        """The share of the time, the length of a long row, and whether to save: as the first process sees it."""
        values = [0.0, 0.0, 0.0]
        if self.rank == 0:
            share = (time.time() - self.started) / 60 / self.options.minutes
            values = [share, self.rng.choice(schedule.LONG_ROW_TOKENS), float(time_to_save)]
        return self.peers.announce(self.rank, values)

    def _begin_stage(self, stage: Stage, before: Stage | None) -> None:
        if before is not None and self.rank == 0:
            self._write(f"{before.name}.pt", {})
            self._report(f"end of {before.name}")
        for parameter in self.parameters.main:
            parameter.requires_grad_(stage.teaches_model)

    def _one_step(self, stage: Stage, long_row: int, log: IO[str] | None) -> None:
        progress = self.progress
        rows, tokens, mixture = _shape(stage, progress.share, self.options.batch, long_row)
        rate = schedule.rate(progress.step, progress.share)
        ids, positions = self.rows.batch(self.rng, rows, tokens, self.rows.weights(mixture))
        losses = self._learn(stage, ids, positions, rate)
        progress.step += 1
        progress.tokens += rows * tokens * self.peers.count
        if log is not None:
            self._log(stage, losses, rate, tokens, log)

    def _learn(self, stage: Stage, ids: Tensor, positions: Tensor, rate: float) -> Losses:
        guidance = schedule.guidance_weight(stage, self.progress.step, self.progress.share)
        output = self.model(
            ids[:, :-1],
            Choice.INDEXER if stage.sparse else Choice.ALL,
            teach=stage.teaches_indexer,
            positions=positions,
            guides=guides(ids) if guidance else None,
        )
        next_token = F.cross_entropy(output.logits.flatten(0, 1), ids[:, 1:].flatten())
        draft = F.cross_entropy(output.draft_logits.flatten(0, 1), ids[:, 2:].flatten())
        loss: Tensor | float = 0.0
        if stage.teaches_model:
            loss = next_token + schedule.DRAFT_WEIGHT * draft + guidance * output.guidance
        if stage.teaches_indexer:
            loss = loss + output.divergence
        loss.backward()
        self._average_gradients(stage)
        self.optimizers.step(stage, rate)
        if stage.teaches_model:
            self.peers.distribute(self.rank, self.parameters.matrices, self.parameters.owners)
        self.model.zero_grad(set_to_none=True)
        imbalance = self._balance(stage)
        side = output.divergence if stage.teaches_indexer else output.guidance
        return Losses(next_token.item(), draft.item(), _value(side), imbalance)

    def _average_gradients(self, stage: Stage) -> None:
        learning = list(self.parameters.main) if stage.teaches_model else []
        learning += self.parameters.indexer if stage.teaches_indexer else []
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learning]
        loads = [layer.load for layer in self.model.expert_layers()] if stage.teaches_model else []
        self.peers.average(self.rank, gradients + loads)

    def _balance(self, stage: Stage) -> float:
        """Moves the routers' biases towards the experts that were used too little."""
        layers = self.model.expert_layers()
        imbalance = 0.0
        for layer in layers:
            mean = layer.load.mean()
            imbalance += (layer.load.max() / mean).item() / len(layers)
            if stage.teaches_model:
                layer.gate.e_score_correction_bias += schedule.ROUTER_BIAS_RATE * torch.sign(mean - layer.load)
            layer.load.zero_()
        return imbalance

    def _log(self, stage: Stage, losses: Losses, rate: float, tokens: int, log: IO[str]) -> None:
        progress = self.progress
        wall, cpu = time.time() - self.started, time.process_time()
        if progress.step % LOG_STEPS == 0:
            line = {"stage": stage.name, "step": progress.step, "tokens": progress.tokens}
            line |= {"wall_s": round(wall), "cpu_s": round(cpu)} | asdict(losses)
            log.write(json.dumps(line | {"rate": rate, "row_tokens": tokens}) + "\n")
            log.flush()
        if progress.step % PRINT_STEPS == 0:
            self.say(
                f"{stage.name} {progress.step} tok {progress.tokens / 1e6:.2f}M wall {wall:.0f}s cpu {cpu:.0f}s "
                f"lm {losses.next_token:.3f} mtp {losses.draft:.3f} kl {losses.divergence:.3f} "
                f"imb {losses.imbalance:.2f} lr {rate:.2f}"
            )
        if progress.step % COPY_STEPS == 0:
            self.say(f"  copying of repeated random ids: {self._copying(stage):.3f}")

    @torch.no_grad()
    def _copying(self, stage: Stage) -> float:
        """How often the model goes on right where random ids are repeated: the first sign of copying."""
        generator = torch.Generator().manual_seed(1)
        once = torch.randint(FIRST_WORD_ID, FIRST_ADDED_ID, (4, 48), generator=generator)
        ids = torch.cat((once, once), 1)
        self.model.eval()
        choice = Choice.INDEXER if stage.sparse else Choice.ALL
        said = self.model(ids[:, :-1], choice, drafts=False).logits.argmax(-1)
        self.model.train()
        return (said[:, 50:] == ids[:, 51:]).float().mean().item()

    def _report(self, name: str) -> None:
        choices = (Choice.ALL, Choice.INDEXER)
        losses = {c.value: _rounded(held_out_loss(self.model, self.held_out, c)) for c in choices}
        self.say(f"== {name} step {self.progress.step}: {json.dumps(losses)}")
        answers = {}
        for domain in schedule.ANSWER_DOMAINS:
            right = {c.value: whole_answers(self.model, self.held_out, domain, c)[0] for c in choices}
            answers[domain] = _rounded(right)
        self.say(f"   answers exact: {json.dumps(answers)}")

    def _save(self) -> None:
        """Saves all that is needed to go on. All processes call it together."""
        momenta = self.optimizers.momenta()
        self.peers.distribute(self.rank, momenta, self.parameters.owners)
        if self.rank == 0:
            self._write(LAST, {"optimizers": self.optimizers.state()})

    def _write(self, name: str, more: dict[str, Any]) -> None:
        state = {"model": self.model.state_dict(), "progress": asdict(self.progress)}
        # Of no use with another one: an id would be another word.
        state["tokenizer"] = self.tokenizer.to_str()
        with written_whole(self.options.out / name) as unfinished:
            torch.save(state | more, unfinished)

    def _resume(self) -> None:
        path = self.options.out / LAST
        if not path.exists():
            return
        saved = torch.load(path)
        self.model.load_state_dict(saved["model"])
        self.progress = Progress(**saved["progress"])
        self.optimizers.load(saved["optimizers"])
        # As text: a sum of step and process may be the seed of another process.
        self.rng = Random(f"{self.progress.step}/{self.rank}")
        self.say(f"resumed {self.progress}")

    def _end(self, last: Stage | None) -> None:
        if last is not None and self.rank == 0:
            self._write(f"{last.name}.pt", {})
        self._save()
        if self.rank != 0:
            return
        checkpoint.write(self.options.out / "checkpoint", self.model.state_dict(), self.config, self.tokenizer)
        self._report("end")
        self.say(f"done: {self.progress.tokens / 1e6:.2f}M tokens, wall {time.time() - self.started:.0f}s")


def _print(text: str) -> None:
    print(text, flush=True)


def _nothing(text: str) -> None:
    pass


def _value(loss: Tensor | float) -> float:
    return loss.item() if isinstance(loss, Tensor) else loss


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in values.items()}


def _stage(share: float) -> Stage | None:
    """The stage at this share of the time; none when it is over."""
    end = 0.0
    for stage in STAGES:
        end += stage.share
        if share < end:
            return stage
    return None


def _shape(stage: Stage, share: float, batch: int, long_row: int) -> tuple[int, int, dict[str, float]]:
    """Rows of a step, tokens of each, and what they are drawn from."""
    if stage.name == "long":
        return 1, long_row, schedule.LONG_MIXTURE
    late = stage.name == "dense" and share > STAGES[0].share * schedule.DOUBLE_ROWS_FROM
    if stage.name == "sparse" or late:
        return max(1, batch // 2), 2 * schedule.ROW_TOKENS, schedule.MIXTURE
    return batch, schedule.ROW_TOKENS, schedule.MIXTURE


def export(out: Path, source: str, folder: Path) -> Progress:
    """Writes the checkpoint of what a run has saved, also while it goes on."""
    saved = torch.load(out / f"{source}.pt")
    checkpoint.write(folder, saved["model"], ModelConfig(), Tokenizer.from_str(saved["tokenizer"]))
    return Progress(**saved["progress"])


def processes(count: int, options: Options) -> None:
    """Runs so many processes to the end."""
    # Made once, before they are needed by all.
    made = tokenizer(options.data)
    _refuse_another(made, options)
    for split in ("train", "val"):
        Rows(options.data, made, split)
    model = Model(ModelConfig())
    values = sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in model.buffers())
    peers = Peers(count, values)
    if count == 1:
        _process(0, peers, options)
    else:
        torch.multiprocessing.start_processes(_process, (peers, options), count, start_method="fork")


def _refuse_another(made: Tokenizer, options: Options) -> None:
    """Refuses to go on from a save with a tokenizer that is not the one of its weights."""
    path = options.out / LAST
    if path.exists() and torch.load(path, mmap=True)["tokenizer"] != made.to_str():
        raise ValueError(
            f"{path} was trained with another tokenizer than that of {options.data}: give --data the corpus that it was "
            "trained on, or --out another folder to start anew"
        )


def _process(rank: int, peers: Peers, options: Options) -> None:
    Trainer(rank, peers, options).run()
