"""Decoder layers computed with fewer, larger operations: one product for queries, keys and values, one for gate and up, additions in place.

Layers are recognised by their structure, whatever the family is called, and proved by their numbers: the model reads a few tokens, and a
fused layer takes a layer's place only if it gives what that layer gave. What is not recognised, or differs, stays as it is. Attention goes
through Transformers' attention interface, as before.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.linalg import vector_norm
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modelyard_runtime.hardware import return_freed

logger = logging.getLogger(__name__)

_OBSERVER = "modelyard-observer"
#: What a layer tells the attention function, always the same; the rest depends on the step.
_RULE = ("scaling", "sliding_window", "softcap", "s_aux")
_TOKENS = 6


class Rotation:
    """Rotary embedding of half-split heads. The sines' sign is put in once for the layers that share them."""

    def __init__(self) -> None:
        self._sin = self._cosines = self._sines = torch.empty(0)

    def __call__(self, heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Returns ``heads`` [1, T, heads, dim] turned by angles of [1, T, dim]."""
        half = sin.shape[-1] // 2
        if self._sin is not sin:
            self._sin, self._cosines = sin, cos[:, :, None]
            self._sines = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)[:, :, None]
        return (heads * self._cosines).addcmul_(heads.roll(half, -1), self._sines)


class RmsNorm:
    """Root mean square norm over the last dimension; ``weight`` is broadcast over the rows."""

    def __init__(self, weight: torch.Tensor, eps: float):
        self.weight = weight
        self.eps = eps
        size = weight.shape[-1]
        # x / sqrt(|x|² / n + eps) = x / hypot(|x|, sqrt(n · eps)) · sqrt(n): one operation less.
        self._floor = torch.tensor((size * eps) ** 0.5, device=weight.device)
        self._wide = weight.float() * size**0.5

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns normalised rows of the same shape and dtype. On CPU the library's own function takes twice as long."""
        if rows.device.type != "cpu":
            normal: torch.Tensor = rms_norm(rows, rows.shape[-1:], None, self.eps)
            return normal.mul_(self.weight)
        wide = rows if rows.dtype is torch.float32 else rows.float()
        scaled = (wide / torch.hypot(vector_norm(wide, dim=-1, keepdim=True), self._floor)).mul_(self._wide)
        return scaled if rows.dtype is torch.float32 else scaled.to(rows.dtype)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a layer is made of. Projections have the names that the layer has for them; those of one group are to become one, in order."""

    attention: nn.Module
    heads: int
    key_heads: int
    qkv: dict[str, nn.Linear]
    out: dict[str, nn.Linear]
    head_norms: list[RmsNorm]
    gate_up: dict[str, nn.Linear]
    down: dict[str, nn.Linear]
    activation: Callable[[torch.Tensor], torch.Tensor]
    norms: dict[str, RmsNorm]

    @property
    def width(self) -> int:
        """Inputs of the projection down."""
        return next(iter(self.down.values())).in_features

    @property
    def groups(self) -> dict[str, dict[str, nn.Linear]]:
        """The projections, by the name that a fused layer has for each group."""
        return {"qkv": self.qkv, "out": self.out, "gate_up": self.gate_up, "down": self.down}


class FusedLayer(nn.Module):
    """A decoder layer with the signature that Transformers' models call.

    ``origins`` says where the products of the layer that it stands for come out, by their names there: module, and columns of its output.
    """

    qkv: nn.Module
    out: nn.Module
    gate_up: nn.Module
    down: nn.Module

    def __init__(self, layer: nn.Module, parts: Parts, rule: dict[str, Any], rotation: Rotation):
        super().__init__()
        for name, value in vars(layer).items():
            if not name.startswith("_") and name != "training":
                setattr(self, name, value)
        self.self_attn = parts.attention
        self.heads, self.key_heads = parts.heads, parts.key_heads
        self.origins: dict[str, tuple[str, slice]] = {}
        for group, members in parts.groups.items():
            setattr(self, group, _joined(list(members.values())))
            self.origins |= {name: (group, columns) for name, columns in _columns(members)}
        self.activation = parts.activation
        self.head_norm = _joined_norm(parts)
        self.before_attention, self.after_attention = parts.norms["before_attention"], parts.norms.get("after_attention")
        self.before_mlp, self.after_mlp = parts.norms["before_mlp"], parts.norms.get("after_mlp")
        self._split = (self.heads + self.key_heads, self.key_heads)
        self._halves = (parts.width, parts.width)
        self._rule = rule
        self._rotation = rotation
        self._eager = _eager_of(parts.attention)
        self._config: Any = parts.attention.config

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Returns the layer's output, [1, T, hidden]."""
        assert position_embeddings is not None
        products = self._modules  # read as attributes they cost a search each
        attended = self._attended(products, self.before_attention(hidden_states), attention_mask, *position_embeddings)
        if self.after_attention is not None:
            attended = self.after_attention(attended)
        hidden_states = attended.add_(hidden_states)
        gate, up = products["gate_up"](self.before_mlp(hidden_states)).split_with_sizes(self._halves, -1)  # type: ignore[misc]
        inner: torch.Tensor = products["down"](self.activation(gate).mul_(up))  # type: ignore[misc]
        if self.after_mlp is not None:
            inner = self.after_mlp(inner)
        return inner.add_(hidden_states)

    def _attended(
        self, products: dict[str, Any], rows: torch.Tensor, mask: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Returns what attention adds to ``rows`` [1, T, hidden]."""
        one, count, _ = rows.shape
        turning, values = products["qkv"](rows).view(one, count, self.heads + 2 * self.key_heads, -1).split_with_sizes(self._split, 2)
        if self.head_norm is not None:
            turning = self.head_norm(turning)
        query, key = self._rotation(turning, cos, sin).transpose(1, 2).split_with_sizes((self.heads, self.key_heads), 1)
        attend = ALL_ATTENTION_FUNCTIONS.get(self._config._attn_implementation, self._eager)
        attended, _ = attend(products["self_attn"], query, key, values.transpose(1, 2), mask, dropout=0.0, **self._rule)
        added: torch.Tensor = products["out"](attended.reshape(one, count, -1))
        return added


@dataclass(slots=True)
class _Observed:
    """What layers got and gave, and what they told the attention function."""

    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=dict)
    rules: dict[nn.Module, dict[str, Any]] = field(default_factory=dict)


def fusable(model: Any) -> bool:
    """Whether `fuse` may replace a layer of the model."""
    return any(True for _ in _places(model))


@torch.inference_mode()
def fuse(model: Any) -> int:
    """Replaces the decoder layers that can be fused, each layer's own weights freed as it goes; returns how many."""
    places = deque(_places(model))
    if not places:
        return 0
    rotation, count = Rotation(), 0
    with _observing(model) as observed:
        _read(model)
        while places:
            siblings, name, layer, parts = places.popleft()  # who keeps the parts, keeps their weights
            rule = observed.rules.get(parts.attention)
            fused = None if rule is None or layer not in observed.calls else FusedLayer(layer, parts, rule, rotation)
            if fused is not None and _same(fused, *observed.calls[layer]):
                setattr(siblings, name, fused)
                _free(layer)
                return_freed()
                count += 1
    logger.info("fused %d layers", count)
    return count


def _places(model: Any) -> Iterator[tuple[nn.ModuleList, str, nn.Module, Parts]]:
    """Yields each layer that is recognised: the list that it is in, its name there, itself and its parts."""
    for siblings in model.modules():
        if isinstance(siblings, nn.ModuleList):
            for name, layer in siblings.named_children():
                if (parts := recognise(layer)) is not None:
                    yield siblings, name, layer, parts


def recognise(layer: nn.Module) -> Parts | None:
    """Returns a decoder layer's parts; None when it has others than those that `FusedLayer` computes with."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    size = getattr(attention, "head_dim", None)
    if attention is None or mlp is None or not isinstance(size, int) or _eager_of(attention) is None:
        return None
    qkv = _linears(layer, "self_attn", ("qkv_proj",)) or _linears(layer, "self_attn", ("q_proj", "k_proj", "v_proj"))
    gate_up = _linears(layer, "mlp", ("gate_up_proj",)) or _linears(layer, "mlp", ("gate_proj", "up_proj"))
    out, down = _linears(layer, "self_attn", ("o_proj",)), _linears(layer, "mlp", ("down_proj",))
    activation = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    norms, head_norms = _norms(layer), [_norm(getattr(attention, name, None)) for name in ("q_norm", "k_norm")]
    if not (qkv and gate_up and out and down and norms and callable(activation)):
        return None
    heads = out["self_attn.o_proj"].in_features // size
    key_heads = (sum(part.out_features for part in qkv.values()) // size - heads) // 2
    found = [norm for norm in head_norms if norm is not None]
    parts = Parts(attention, heads, key_heads, qkv, out, found, gate_up, down, activation, norms)
    return parts if _is_whole(layer, parts) else None


def _is_whole(layer: nn.Module, parts: Parts) -> bool:
    """Whether the parts are all that the layer has: a parameter more would be a computation more."""
    groups = [list(group.values()) for group in parts.groups.values()]
    used = sum(1 + (part.bias is not None) for group in groups for part in group) + len(parts.norms) + len(parts.head_norms)
    alike = all(len({part.bias is None for part in group}) == 1 for group in groups)
    return alike and len(parts.head_norms) in {0, 2} and used == sum(1 for _ in layer.parameters())


def _linears(layer: nn.Module, owner: str, names: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Returns linear layers by their names in the layer; none when one is missing or of a special kind."""
    found = {f"{owner}.{name}": getattr(getattr(layer, owner), name, None) for name in names}
    return found if all(type(part) is nn.Linear for part in found.values()) else {}  # type: ignore[return-value]


def _columns(members: dict[str, nn.Linear]) -> Iterator[tuple[str, slice]]:
    """Yields each member's columns in the product of all."""
    first = 0
    for name, part in members.items():
        yield name, slice(first, first + part.out_features)
        first += part.out_features


def _norms(layer: nn.Module) -> dict[str, RmsNorm]:
    """Returns the norms by place: two before the halves of the layer, as in Llama, or two more behind them, as in Gemma 2 and 3."""
    places = {"before_attention": "input_layernorm", "before_mlp": "post_attention_layernorm"}
    if hasattr(layer, "pre_feedforward_layernorm"):
        places |= {"after_attention": "post_attention_layernorm", "before_mlp": "pre_feedforward_layernorm"}
        places |= {"after_mlp": "post_feedforward_layernorm"}
    norms = {place: _norm(getattr(layer, name, None)) for place, name in places.items()}
    found = {place: norm for place, norm in norms.items() if norm is not None}
    return found if len(found) == len(places) else {}


@torch.inference_mode()
def _norm(module: nn.Module | None) -> RmsNorm | None:
    """Returns what computes the same as a family's norm; None when it is no root mean square norm, with its weights or with 1 added."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if module is None or not isinstance(weight, torch.Tensor) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    rows = torch.linspace(-2, 3, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    candidates = (RmsNorm(factor, eps) for factor in (weight.detach(), weight.detach() + 1))
    return next((norm for norm in candidates if _close(norm(rows), module(rows))), None)


def _joined(parts: list[nn.Linear]) -> nn.Linear:
    """Returns one linear layer that gives the parts' outputs one after another."""
    if len(parts) == 1:
        return parts[0]
    with torch.device("meta"):
        whole = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts), bias=parts[0].bias is not None)
    whole.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
    if parts[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    return whole


def _joined_norm(parts: Parts) -> RmsNorm | None:
    """Returns one norm for the heads of queries and keys, its weight [heads + key_heads, dim]."""
    if not parts.head_norms:
        return None
    weights = [norm.weight.expand(count, -1) for norm, count in zip(parts.head_norms, (parts.heads, parts.key_heads), strict=True)]
    return RmsNorm(torch.cat(weights), parts.head_norms[0].eps)


def _free(layer: nn.Module) -> None:
    """Lets go of the projections that the fused layer has joined; its attention keeps what the attention function looks at."""
    for owner in (layer.self_attn, layer.mlp):
        for name in list(owner._modules):  # type: ignore[union-attr]
            owner._modules[name] = None  # type: ignore[union-attr]


def _eager_of(attention: nn.Module) -> Callable[..., Any] | None:
    """Returns the family's own attention function, which the interface falls back to."""
    return getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)


@contextmanager
def _observing(model: Any) -> Iterator[_Observed]:
    """Notes what layers and attention get, within the block."""
    observed, before = _Observed(), model.config._attn_implementation

    def noted(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        observed.calls[layer] = args, kwargs, output

    def attention(  # noqa: PLR0917 - Transformers' signature
        module: nn.Module, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, **kwargs: Any
    ) -> tuple[Any, None]:
        observed.rules[module] = {name: given for name, given in {"scaling": scaling, **kwargs}.items() if name in _RULE}
        out = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None

    hooks = [module.register_forward_hook(noted, with_kwargs=True) for module in model.modules() if hasattr(module, "self_attn")]
    AttentionInterface.register(_OBSERVER, attention)
    model.set_attn_implementation(_OBSERVER)
    try:
        yield observed
    finally:
        model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def _read(model: Any) -> None:
    size = model.config.get_text_config().vocab_size
    tokens = torch.tensor([[(7 * i + 3) % size for i in range(_TOKENS)]], device=model.device)
    model(input_ids=tokens, use_cache=False)


def _same(fused: FusedLayer, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Any) -> bool:
    """Whether the fused layer gives what the layer gave to the same call."""
    embeddings = kwargs.get("position_embeddings")
    if not isinstance(wanted, torch.Tensor) or not args or embeddings is None or embeddings[1].shape[-1] != fused.self_attn.head_dim:
        return False
    return _close(fused(*args, **kwargs), wanted)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    tolerance = 1e-4 if wanted.dtype == torch.float32 else 4e-2
    return bool((got.float() - wanted.float()).abs().max() <= tolerance * wanted.float().abs().max())
