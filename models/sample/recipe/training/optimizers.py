"""Which optimiser moves what, and at which rate."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training import schedule
from training.model import Model
from training.muon import Muon
from training.schedule import Stage

ADAMW_BETAS = (0.9, 0.97)


@dataclass(frozen=True)
class Parameters:
    """The model's parameters by what trains them."""

    # Muon: matrices, but for those that are read row by row.
    matrices: list[Tensor]
    # The process that computes the update of each.
    owners: list[int]
    # Of the matrices, those that project to queries, keys and values.
    attention: set[int]
    # AdamW.
    tables: list[Tensor]
    vectors: list[Tensor]
    indexer: list[Tensor]
    # All but the indexer's, in the model's order.
    main: list[Tensor]

    @classmethod
    def of(cls, model: Model, processes: int) -> "Parameters":
        """Sorts them, and gives each matrix to the process that has least to do."""
        named = list(model.named_parameters())
        main = [(name, p) for name, p in named if "indexer" not in name]
        matrices = [p for name, p in main if _is_matrix(name, p)]
        rest = [p for name, p in main if not _is_matrix(name, p)]
        owners, work = [], [0] * processes
        for matrix in matrices:
            owner = work.index(min(work))
            owners.append(owner)
            work[owner] += matrix.numel() * min(matrix.shape[-2:])
        return cls(
            matrices=matrices,
            owners=owners,
            attention={id(p) for name, p in main if "self_attn" in name and "o_proj" not in name},
            tables=[p for p in rest if p.dim() > 1],
            vectors=[p for p in rest if p.dim() == 1],
            indexer=[p for name, p in named if "indexer" in name],
            main=[p for _, p in main],
        )


def _is_matrix(name: str, parameter: Tensor) -> bool:
    is_table = any(part in name for part in ("embed", "lm_head", "gate.weight"))
    return parameter.dim() >= 2 and not is_table


class Optimizers:
    """The optimisers of one process, and their rates."""

    def __init__(self, parameters: Parameters, rank: int) -> None:
        self.parameters = parameters
        own = [p for p, owner in zip(parameters.matrices, parameters.owners) if owner == rank]
        self.muon = Muon(
            [
                {"params": [p for p in own if id(p) not in parameters.attention], "lr": schedule.MATRIX_RATE},
                {
                    "params": [p for p in own if id(p) in parameters.attention],
                    "lr": schedule.ATTENTION_RATE,
                    "flat": True,
                },
            ]
        )
        self.main = torch.optim.AdamW(
            [
                {"params": parameters.tables, "lr": schedule.EMBEDDING_RATE},
                {"params": parameters.vectors, "lr": schedule.VECTOR_RATE},
            ],
            betas=ADAMW_BETAS,
            weight_decay=0,
        )
        self.indexer = torch.optim.AdamW(
            parameters.indexer, lr=schedule.INDEXER_RATE, betas=ADAMW_BETAS, weight_decay=0
        )
        for optimizer in (self.muon, self.main, self.indexer):
            for group in optimizer.param_groups:
                group["full_rate"] = group["lr"]

    def step(self, stage: Stage, rate: float) -> None:
        """Moves what learns in this stage."""
        if stage.teaches_model:
            _step(self.muon, rate)
            _step(self.main, rate)
        if stage.teaches_indexer:
            _step(self.indexer, max(rate, schedule.INDEXER_RATE_MIN))

    def momenta(self) -> list[Tensor]:
        """Muon's momentum of every matrix; right for those that this process owns."""
        return [self.muon.momentum(p) for p in self.parameters.matrices]

    def load(self, state: dict[str, Any]) -> None:
        """Goes on where a run was saved, with any number of processes."""
        _load_moments(self.main, state["main"])
        _load_moments(self.indexer, state["indexer"])
        for own, saved in zip(self.momenta(), state["momenta"], strict=True):
            own.copy_(saved)

    def state(self) -> dict[str, Any]:
        """What `load` takes, once the momenta of all processes are here."""
        return {
            "main": self.main.state_dict(),
            "indexer": self.indexer.state_dict(),
            "momenta": self.momenta(),
        }


def _load_moments(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """The moments alone: all rates are those of schedule.py, also where they have changed since the save."""
    optimizer.load_state_dict(saved | {"param_groups": optimizer.state_dict()["param_groups"]})


def _step(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * rate
    optimizer.step()
