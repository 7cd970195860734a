"""DeepSeek-V3.2's architecture, whole and small: attention, mixture of experts, multi-token prediction.

Written for training on a CPU in f32, where many small operations cost more than arithmetic does. Names of parameters
are those of the published checkpoints, but for the experts, which are stacked, and the layer that drafts
(training/checkpoint.py renames both).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import MLA, Attended, Choice, Guide, Pass, RMSNorm, linear
from training.config import ModelConfig

# The guided heads of each layer.
Guides = Mapping[int, Sequence[Guide]]


@dataclass(frozen=True)
class Output:
    """What the model says, and losses of its own parts."""

    # Of the next token, `[batch, tokens, vocabulary]`.
    logits: Tensor
    # Of the token after it, `[batch, tokens - 1, vocabulary]`.
    draft_logits: Tensor | None
    divergence: Tensor | float
    guidance: Tensor | float


class MLP(nn.Module):
    """The gated feed-forward network."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = linear(hidden, inner)
        self.up_proj = linear(hidden, inner)
        self.down_proj = linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., hidden]` to the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Linear):
    """Scores of the experts, and the bias that balances their load."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.hidden_size, config.n_routed_experts, bias=False)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))


class MoE(nn.Module):
    """Experts, of which each token has a few, and one that all share."""

    gate: Router
    load: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        experts, hidden, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate = Router(config)
        # Tokens of each expert since the last balancing.
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.experts_gate_proj = nn.Parameter(torch.randn(experts, inner, hidden) * 0.02)
        self.experts_up_proj = nn.Parameter(torch.randn(experts, inner, hidden) * 0.02)
        self.experts_down_proj = nn.Parameter(torch.randn(experts, hidden, inner) * 0.02)
        self.shared_experts = MLP(hidden, inner * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., hidden]` to the same."""
        config, shape = self.config, x.shape
        x = x.reshape(-1, shape[-1])
        affinity = self.gate(x).sigmoid()
        # The bias chooses, and weighs nothing.
        chosen = (affinity.detach() + self.gate.e_score_correction_bias).topk(config.num_experts_per_tok, -1).indices
        weights = affinity.gather(1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * config.routed_scaling_factor
        # Tokens in the order of their experts, so that every expert has them in one piece.
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=config.n_routed_experts)
        if self.training:
            self.load += counts
        inputs = x[order // config.num_experts_per_tok].split(counts.tolist())
        outputs = torch.cat([self._expert(e, tokens) for e, tokens in enumerate(inputs)])
        outputs = outputs * weights.flatten()[order].unsqueeze(1)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        routed = outputs[back].view(-1, config.num_experts_per_tok, shape[-1]).sum(1)
        return (self.shared_experts(x) + routed).view(shape)

    def _expert(self, e: int, x: Tensor) -> Tensor:
        inner = F.silu(F.linear(x, self.experts_gate_proj[e])) * F.linear(x, self.experts_up_proj[e])
        return F.linear(inner, self.experts_down_proj[e])


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to what it reads."""

    def __init__(self, config: ModelConfig, with_experts: bool) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size)
        self.self_attn = MLA(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size)
        self.mlp = MoE(config) if with_experts else MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, how: Pass, guides: Sequence[Guide] = ()) -> Attended:
        """`[batch, tokens, hidden]` to the same."""
        attended = self.self_attn(self.input_layernorm(x), how, guides)
        x = x + attended.output
        x = x + self.mlp(self.post_attention_layernorm(x))
        return Attended(x, attended.divergence, attended.guidance)


class Drafter(nn.Module):
    """Multi-token prediction: the token after next, from a final hidden state and the embedding of the next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.enorm = RMSNorm(hidden)
        self.hnorm = RMSNorm(hidden)
        self.eh_proj = linear(2 * hidden, hidden)
        self.layer = Layer(config, with_experts=True)
        self.norm = RMSNorm(hidden)

    def forward(self, next_embeddings: Tensor, hidden_states: Tensor, how: Pass) -> Attended:
        """`[batch, tokens, hidden]` both, to the same."""
        both = torch.cat((self.enorm(next_embeddings), self.hnorm(hidden_states)), -1)
        attended = self.layer(self.eh_proj(both), how)
        return Attended(self.norm(attended.output), attended.divergence, 0.0)


class Model(nn.Module):
    """The whole model."""

    inv_freq: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, hidden)
        self.layers = nn.ModuleList(
            Layer(config, with_experts=i >= config.first_k_dense_replace) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(hidden)
        self.lm_head = linear(hidden, config.vocab_size)
        self.mtp = Drafter(config)
        self._initialize()
        exponents = torch.arange(0, config.qk_rope_head_dim, 2).float() / config.qk_rope_head_dim
        self.register_buffer("inv_freq", 1.0 / config.rope_theta**exponents, persistent=False)

    def _initialize(self) -> None:
        """Draws the matrices; what is added to the stream starts smaller, embeddings larger."""
        usual = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            if "embed" in name:
                # Ten times the usual: otherwise the first MLPs drown the token's own embedding, and nothing is copied.
                deviation = 0.2
            elif "o_proj" in name or "down_proj" in name:
                deviation = usual / math.sqrt(2 * self.config.num_hidden_layers)
            else:
                deviation = usual
            nn.init.normal_(parameter, 0, deviation)

    def forward(
        self,
        ids: Tensor,
        choice: Choice = Choice.ALL,
        *,
        top_k: int | None = None,
        teach: bool = False,
        positions: Tensor | None = None,
        guides: Guides | None = None,
        drafts: bool = True,
    ) -> Output:
        """Reads `ids`, `[batch, tokens]`.

        `positions` has at least as many columns; they count from zero when it is left out.
        """
        batch, tokens = ids.shape
        x = self.embed_tokens(ids)
        how = self._pass(choice, top_k, teach, self._positions(positions, batch, tokens))
        divergences: list[Tensor | float] = []
        guidance: Tensor | float = 0.0
        for i, layer in enumerate(self.layers):
            attended = layer(x, how, guides.get(i, ()) if guides else ())
            x = attended.output
            divergences.append(attended.divergence)
            guidance = guidance + attended.guidance
        x = self.norm(x)
        logits = self.lm_head(x)
        draft_logits = None
        if drafts:
            drafted = self.mtp(self.embed_tokens(ids[:, 1:]), x[:, :-1], how.without_last())
            divergences.append(drafted.divergence)
            draft_logits = self.lm_head(drafted.output)
        return Output(logits, draft_logits, sum(divergences) / len(divergences), guidance)

    @staticmethod
    def _positions(positions: Tensor | None, batch: int, tokens: int) -> Tensor:
        return torch.arange(tokens).expand(batch, tokens) if positions is None else positions[:, :tokens]

    def _pass(self, choice: Choice, top_k: int | None, teach: bool, positions: Tensor) -> Pass:
        angles = positions.unsqueeze(-1).float() * self.inv_freq
        return Pass(choice, top_k or self.config.index_topk, teach, angles.cos(), angles.sin())

    def expert_layers(self) -> list[MoE]:
        """The networks that have experts, the drafting layer's last."""
        return [layer.mlp for layer in [*self.layers, self.mtp.layer] if isinstance(layer.mlp, MoE)]
