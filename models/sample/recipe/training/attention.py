"""Attention as DeepSeek-V3.2 has it: multi-head latent attention, and the lightning indexer that chooses for it.

Sparse attention is computed in the absorbed form over the chosen latents, dense attention in the other form, with keys
and values of every head.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig

# So many rows of scores are held at a time.
SCORE_ROWS = 256
INFINITY = torch.inf


class Choice(enum.Enum):
    """What a token attends to."""

    ALL = "dense"
    # What the indexer scores highest.
    INDEXER = "sparse"
    # The last tokens: what the indexer has to be better than.
    LAST = "window"


# A head, and the positions that it shall attend to, `[batch, tokens, tokens]`.
Guide = tuple[int, Tensor]


@dataclass(frozen=True)
class Pass:
    """How a forward pass is done, the same in every layer."""

    choice: Choice
    top_k: int
    # Whether the indexer is held against the attention, for its loss.
    teach: bool
    # Of the rotation at each position, `[batch, tokens, qk_rope_head_dim / 2]`.
    cos: Tensor
    sin: Tensor

    def without_last(self) -> "Pass":
        """The same for all positions but the last."""
        return Pass(self.choice, self.top_k, self.teach, self.cos[:, :-1], self.sin[:, :-1])


@dataclass(frozen=True)
class Attended:
    """What attention gives beside its output: losses of the layer."""

    output: Tensor
    # Of the indexer: KL divergence from the attention to its choice. Zero when it is not taught.
    divergence: Tensor | float
    # Of guided heads. Zero when there are none.
    guidance: Tensor | float


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A matrix without bias."""
    return nn.Linear(inputs, outputs, bias=False)


class RMSNorm(nn.Module):
    """Root mean square norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-6)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of interleaved pairs: that of the main attention."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of split halves: that of the indexer."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()


def _divergence(attention: Tensor, scores: Tensor, visible: Tensor) -> Tensor:
    """KL divergence from the attention's mean over heads to the softmax of the scores, `[tokens, visible]` each."""
    guess = scores.masked_fill(~visible, -INFINITY).log_softmax(-1).masked_fill(~visible, 0)
    return (attention * (attention.clamp_min(1e-9).log() - guess)).sum()


@dataclass(frozen=True)
class IndexRows:
    """What the indexer computes of each token."""

    # `[batch, tokens, index heads, index dim]`
    queries: Tensor
    # `[batch, tokens, index dim]`
    keys: Tensor
    # Of the heads, `[batch, tokens, index heads]`.
    weights: Tensor


class Indexer(nn.Module):
    """The lightning indexer: scores every earlier token for every token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wq_b = linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim)
        self.wk = linear(config.hidden_size, config.index_head_dim)
        self.k_norm = nn.LayerNorm(config.index_head_dim, eps=1e-6)
        self.weights_proj = linear(config.hidden_size, config.index_n_heads)
        self.scale = config.index_n_heads**-0.5 * config.index_head_dim**-0.5

    def rows(self, x: Tensor, query_latent: Tensor, cos: Tensor, sin: Tensor) -> IndexRows:
        """Queries, keys and weights; the rotated part is first, as published."""
        rotated = self.config.qk_rope_head_dim
        batch, tokens, _ = x.shape
        q = self.wq_b(query_latent).view(batch, tokens, self.config.index_n_heads, -1)
        k = self.k_norm(self.wk(x))
        head_cos, head_sin = cos.unsqueeze(2), sin.unsqueeze(2)
        q = torch.cat((rotate_halves(q[..., :rotated], head_cos, head_sin), q[..., rotated:]), -1)
        k = torch.cat((rotate_halves(k[..., :rotated], cos, sin), k[..., rotated:]), -1)
        return IndexRows(q, k, self.weights_proj(x) * self.scale)

    def forward(self, queries: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        """Scores `[batch, queries, keys]`. One head after the other: all together would not fit the CPU's cache."""
        scores = 0.0
        for head in range(queries.shape[2]):
            scores = scores + F.relu(queries[:, :, head] @ keys.mT) * weights[:, :, head, None]
        return scores


@dataclass(frozen=True)
class Chosen:
    """The tokens that each token attends to, rows of all batches one after the other: `[batch * tokens, top_k]`."""

    # Numbers of rows.
    rows: Tensor
    # Whether there is one: the first tokens have fewer than top_k before them.
    valid: Tensor


class MLA(nn.Module):
    """Multi-head latent attention with an indexer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, hidden = config.num_attention_heads, config.hidden_size
        self.q_a_proj = linear(hidden, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank)
        self.q_b_proj = linear(config.q_lora_rank, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank)
        self.kv_b_proj = linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = linear(heads * config.v_head_dim, hidden)
        self.indexer = Indexer(config)
        self.scale = config.qk_head_dim**-0.5

    def forward(self, x: Tensor, how: Pass, guides: Sequence[Guide] = ()) -> Attended:
        """Attends to all tokens before, or to the chosen ones."""
        config = self.config
        batch, tokens, _ = x.shape
        nope = config.qk_nope_head_dim
        query_latent = self.q_a_layernorm(self.q_a_proj(x))
        q = self.q_b_proj(query_latent).view(batch, tokens, config.num_attention_heads, config.qk_head_dim)
        q_nope, q_rope = q[..., :nope], rotate_pairs(q[..., nope:], how.cos.unsqueeze(2), how.sin.unsqueeze(2))
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((config.kv_lora_rank, config.qk_rope_head_dim), -1)
        latent, k_rope = self.kv_a_layernorm(latent), rotate_pairs(k_rope, how.cos, how.sin)
        index = None
        if how.choice is not Choice.ALL or how.teach:
            # The indexer learns from its own loss alone, and teaches nothing to what is below it.
            index = self.indexer.rows(x.detach(), query_latent.detach(), how.cos, how.sin)
        if how.choice is Choice.ALL:
            return self._dense(q_nope, q_rope, latent, k_rope, index if how.teach else None, guides)
        return self._sparse(q_nope, q_rope, latent, k_rope, index, how)

    def _dense(
        self,
        q_nope: Tensor,
        q_rope: Tensor,
        latent: Tensor,
        k_rope: Tensor,
        index: IndexRows | None,
        guides: Sequence[Guide],
    ) -> Attended:
        config = self.config
        batch, tokens, heads, nope = q_nope.shape
        kv = self.kv_b_proj(latent).view(batch, tokens, heads, nope + config.v_head_dim).transpose(1, 2)
        shared = k_rope.unsqueeze(1).expand(batch, heads, tokens, config.qk_rope_head_dim)
        k = torch.cat((kv[..., :nope], shared), -1)
        q = torch.cat((q_nope, q_rope), -1).transpose(1, 2)
        v = kv[..., nope:]
        guidance = self._guidance(q, k, guides)
        divergence: Tensor | float = 0.0
        if index is None:
            # Padded, because the fused kernel wants values as wide as keys.
            wide = F.pad(v, (0, config.qk_head_dim - config.v_head_dim))
            o = F.scaled_dot_product_attention(q, k, wide, is_causal=True)[..., : config.v_head_dim]
        else:
            visible = _causal(tokens)
            p = ((q @ k.mT) * self.scale).masked_fill(~visible, -INFINITY).softmax(-1)
            o = p @ v
            scores = self.indexer(index.queries, index.keys, index.weights)
            divergence = _divergence(p.detach().mean(1), scores, visible) / (batch * tokens)
        return Attended(self.o_proj(o.transpose(1, 2).reshape(batch, tokens, -1)), divergence, guidance)

    def _guidance(self, q: Tensor, k: Tensor, guides: Sequence[Guide]) -> Tensor | float:
        """-log of the attention's mass on each guided head's targets, over the tokens that have some."""
        loss: Tensor | float = 0.0
        for head, target in guides:
            scores = ((q[:, head] @ k[:, head].mT) * self.scale).masked_fill(~_causal(q.shape[2]), -INFINITY)
            log_p = scores.log_softmax(-1)
            has_target = target.any(-1)
            if has_target.any():
                loss = loss - log_p.masked_fill(~target, -INFINITY)[has_target].logsumexp(-1).mean()
        return loss

    def _sparse(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, index: IndexRows, how: Pass
    ) -> Attended:
        config = self.config
        batch, tokens, heads, nope = q_nope.shape
        chosen = self._choose(index, how)
        invalid = ~chosen.valid
        weight = self.kv_b_proj.weight.view(heads, nope + config.v_head_dim, config.kv_lora_rank)
        cache = torch.cat((latent, k_rope), -1).flatten(0, 1)
        picked = F.embedding(chosen.rows, cache)
        absorbed = torch.einsum("bthn,hnc->bthc", q_nope, weight[:, :nope])
        q = torch.cat((absorbed, q_rope), -1).flatten(0, 1)
        p = ((q @ picked.mT) * self.scale).masked_fill(invalid.unsqueeze(1), -INFINITY).softmax(-1)
        mixed = p @ picked[..., : config.kv_lora_rank]
        o = torch.einsum("thc,hvc->thv", mixed, weight[:, nope:]).reshape(batch, tokens, -1)
        divergence: Tensor | float = 0.0
        if how.teach:
            # Over the chosen tokens only: the others were not attended to.
            keys = F.embedding(chosen.rows, index.keys.flatten(0, 1))
            by_head = F.relu(index.queries.flatten(0, 1) @ keys.mT) * index.weights.flatten(0, 1).unsqueeze(-1)
            scores = by_head.sum(1)
            divergence = _divergence(p.detach().mean(1), scores, chosen.valid) / (batch * tokens)
        return Attended(self.o_proj(o), divergence, 0.0)

    @torch.no_grad()
    def _choose(self, index: IndexRows, how: Pass) -> Chosen:
        batch, tokens, _ = index.keys.shape
        top_k = min(how.top_k, tokens)
        places, values = [], []
        for begin in range(0, tokens, SCORE_ROWS):
            end = min(tokens, begin + SCORE_ROWS)
            scores = self._scores(index, begin, end, how.choice)
            visible = torch.ones(end - begin, end, dtype=torch.bool).tril(begin)
            best = scores.masked_fill(~visible, -INFINITY).topk(min(top_k, end), -1)
            missing = (0, top_k - best.values.shape[-1])
            places.append(F.pad(best.indices, missing))
            values.append(F.pad(best.values, missing, value=-INFINITY))
        valid = torch.cat(values, 1) > -INFINITY
        rows = torch.cat(places, 1) + (torch.arange(batch) * tokens).view(batch, 1, 1)
        return Chosen(rows.flatten(0, 1), valid.flatten(0, 1))

    def _scores(self, index: IndexRows, begin: int, end: int, choice: Choice) -> Tensor:
        if choice is Choice.LAST:
            return torch.arange(end).float().expand(index.keys.shape[0], end - begin, -1).clone()
        return self.indexer(index.queries[:, begin:end], index.keys[:, :end], index.weights[:, begin:end])
