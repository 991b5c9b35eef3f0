"""What decoder-only models share: a stack of layers over a residual stream.

A family is a subclass of :class:`Decoder` that says which weights a layer has and what it does
with them; ``llama.py`` is the one to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

from zif.contract import (
    Array,
    AttentionSpec,
    CacheGroup,
    EmbeddingSpec,
    InputSpec,
    LinearSpec,
    OpRequest,
    Ops,
    RepeatedSpec,
    RopeSpec,
    Step,
    Tree,
    VectorSpec,
    divided,
    local_attention,
)

Carry = tuple[Array, Array, Tree]
"""What goes from layer to layer: x [T, hidden] still to be added, residual [T, hidden], cache."""


@dataclass(frozen=True)
class LayerKind:
    """What tells a layer from its neighbours: layers of one kind differ in the values of their weights alone.

    A family whose layers differ in more than their attention (dense or with experts) adds fields in a subclass.
    """

    attention: AttentionSpec

    def local(self, size: int) -> Self:
        """The layer as each of ``size`` ranks runs it. Raises UnsupportedModel for sizes that do not divide."""
        return replace(self, attention=local_attention(self.attention, size))


class Piece(NamedTuple):
    """Blocks [start, stop) of a segment, of each the layers [first, last)."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Segment:
    """``count`` blocks of ``len(pattern)`` layers each, from layer ``first`` on.

    A layer of block i is number ``base + i * stride`` of its cache group, by its ``places``.
    """

    first: int
    pattern: tuple[LayerKind, ...]
    count: int
    places: tuple[tuple[int, int], ...]

    @property
    def layers(self) -> range:
        return range(self.first, self.first + self.count * len(self.pattern))

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """Layers [start, stop) as runs of whole blocks, and parts of blocks at a cut through one."""
        period = len(self.pattern)
        at, end = max(start, self.layers.start) - self.first, min(stop, self.layers.stop) - self.first
        while at < end:
            block, first = divmod(at, period)
            if first == 0 and end - at >= period:
                piece = Piece(block, end // period, 0, period)
            else:
                piece = Piece(block, block + 1, first, min(period, first + end - at))
            yield piece
            at = (piece.stop - 1) * period + piece.last


def segments(kinds: Sequence[LayerKind]) -> list[Segment]:
    """Layers as few repeating blocks: from the front, the pattern that covers most, and so on.

    Twenty-six layers of "5 local : 1 global" are four blocks of six and two of one; one dense layer before
    sixty with experts is a block of one, and sixty of one.
    """
    found = []
    at = 0
    while at < len(kinds):
        period, count = max(_repetitions(kinds[at:]), key=lambda run: run[0] * run[1])
        end = at + period
        groups = [kind.attention.group for kind in kinds[:end]]
        places = tuple((groups[:i].count(groups[i]), groups[at:].count(groups[i])) for i in range(at, end))
        found.append(Segment(at, tuple(kinds[at:end]), count, places))
        at += period * count
    return found


def _repetitions(layers: Sequence[LayerKind]) -> Iterator[tuple[int, int]]:
    """(period, times) of the patterns that ``layers`` begin with more than once, and of the first layer alone."""
    yield 1, 1
    for period in range(1, len(layers) // 2 + 1):
        count = 1
        while layers[count * period : (count + 1) * period] == layers[:period]:
            count += 1
        if count > 1:
            yield period, count


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A :class:`zif.contract.model.Model` of layers of a few kinds.

    ``kinds`` holds one a layer. ``norm_offset`` is added to every norm's weight.
    ``final_softcap`` bounds the logits.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    context_length: int
    kinds: tuple[LayerKind, ...]
    eps: float
    activation: str = "silu"
    norm_offset: float = 0.0
    tied: bool = False
    final_softcap: float | None = None

    def layer_weights(self, name: str, kind: Any) -> dict[str, Tree]:
        """Weight specs of the layer whose tensors' names begin with ``name`` and a dot."""
        raise NotImplementedError

    def layer(self, ops: Ops, w: Tree, carry: Carry, index: Any, step: Step, kind: Any, angles: Array | None) -> Carry:
        """One layer, of the family's ``kind``. ``index`` is its place in its cache group, and may be traced."""
        raise NotImplementedError

    @property
    def attention(self) -> tuple[AttentionSpec, ...]:
        """Of each layer."""
        return tuple(kind.attention for kind in self.kinds)

    def with_attention(self, attention: Sequence[AttentionSpec]) -> Self:
        """The model with another attention in each layer."""
        changed = zip(self.kinds, attention, strict=True)
        return replace(self, kinds=tuple(replace(kind, attention=spec) for kind, spec in changed))

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    @property
    def inputs(self) -> Sequence[InputSpec]:
        return ()

    @property
    def attention_specs(self) -> Sequence[AttentionSpec]:
        return tuple(dict.fromkeys(self.attention))

    @property
    def cache_groups(self) -> Sequence[CacheGroup]:
        groups = []
        for spec in {spec.group: spec for spec in self.attention}.values():
            count = sum(other.group == spec.group for other in self.attention)
            kind = "paged" if spec.window is None else "window"
            heads = (spec.kv_heads, spec.head_dim, spec.v_head_dim)
            groups.append(CacheGroup(spec.group, kind, count, *heads, spec.window))  # type: ignore[arg-type]
        return groups

    @cached_property
    def segments(self) -> list[Segment]:
        """The body, as ``repeat`` runs it."""
        return segments(self.kinds)

    def local(self, size: int) -> Self:
        """The model as each of ``size`` ranks runs it: its share of the heads and of the MLP's inner units."""
        return replace(
            self,
            kinds=tuple(kind.local(size) for kind in self.kinds),
            intermediate_size=divided(self.intermediate_size, size, "inner units of the MLP"),
        )

    def weights(self) -> dict[str, Tree]:
        """embed, body (a RepeatedSpec a segment, each copy a list of layers), norm, lm_head."""
        body = []
        for segment in self.segments:
            layers = [self.layer_weights(f"model.layers.{i}", self.kinds[i]) for i in segment.layers]
            period = len(segment.pattern)
            body.append(RepeatedSpec([layers[at : at + period] for at in range(0, len(layers), period)]))
        head = ("lm_head.weight",), (self.vocab_size,), self.hidden_size
        return {
            "embed": EmbeddingSpec("model.embed_tokens.weight", self.vocab_size, self.hidden_size),
            "body": body,
            "norm": VectorSpec("model.norm.weight", (self.hidden_size,)),
            "lm_head": LinearSpec(*head, split="vocab", tied="embed" if self.tied else None),
        }

    def requests(self, dtype: str) -> Sequence[OpRequest]:
        """Ops besides linears, embedding and attention."""
        wanted = [
            OpRequest.of("add", dtype),
            OpRequest.of("add_norm", dtype, size=self.hidden_size),
            OpRequest.of("rms_norm", dtype, size=self.hidden_size),
            OpRequest.of("gated_activation", dtype, size=self.intermediate_size, kind=self.activation),
        ]
        if self.final_softcap is not None:
            wanted.append(OpRequest.of("softcap", "float32"))
        return wanted

    def embed(self, ops: Ops, w: Tree, step: Step) -> Array:
        """[T, hidden]"""
        return ops.embedding(step.tokens, w["embed"], step)

    def layers(
        self, ops: Ops, w: Tree, x: Array, cache: Tree, step: Step, start: int = 0, stop: int | None = None
    ) -> tuple[Array, Tree]:
        """Layers [start, stop) on x [T, hidden]: (x and the residual summed, cache)."""
        stop = self.num_layers if stop is None else stop
        ropes, rope_of = self._ropes
        angles = [None if rope is None else ops.rope_angles(step.positions, rope) for rope in ropes]
        carry: Carry = (x, x * 0, cache)
        for segment, stacked in zip(self.segments, w["body"], strict=True):
            turns = [angles[rope_of[layer]] for layer in segment.layers[: len(segment.pattern)]]
            for piece in segment.pieces(start, stop):
                carry = ops.repeat(self._block(ops, segment, piece, step, turns), stacked, carry, *piece[:2])
        x, residual, cache = carry
        return ops.add(x, residual), cache

    def head(self, ops: Ops, w: Tree, rows: Array, step: Step) -> Array:
        """Logits [R, vocab] float32 of hidden states [R, hidden]."""
        rows = ops.rms_norm(rows, w["norm"], self.eps, self.norm_offset)
        logits = ops.logits(rows, w["lm_head"], step)
        return logits if self.final_softcap is None else ops.softcap(logits, self.final_softcap)

    @cached_property
    def _ropes(self) -> tuple[list[RopeSpec | None], list[int]]:
        """The distinct rotary embeddings, and which of them each layer has."""
        ropes = list(dict.fromkeys(spec.rope for spec in self.attention))
        return ropes, [ropes.index(spec.rope) for spec in self.attention]

    def _block(
        self, ops: Ops, segment: Segment, piece: Piece, step: Step, angles: Sequence[Array | None]
    ) -> Callable[[Tree, Carry, Any], Carry]:
        """The body of a ``repeat``: layers [first, last) of a block."""
        layer = self.layer
        parts = [
            (at, *segment.places[at], segment.pattern[at], angles[at]) for at in range(piece.first, piece.last)
        ]  # looked up once: what follows runs on the host between the launches of every layer

        def block(w: Tree, carry: Carry, i: Any) -> Carry:
            for at, base, stride, kind, turns in parts:
                carry = layer(ops, w[at], carry, base + i * stride, step, kind, turns)
            return carry

        return block


def windowed(spec: AttentionSpec, window: int | None) -> AttentionSpec:
    """``spec`` with a sliding window, and the cache group of its like, unless ``window`` is None."""
    return spec if window is None else replace(spec, group="window", window=window)


def fused(name: str, parts: Mapping[str, int], inputs: int, bias: bool = False, gate: str | None = None) -> LinearSpec:
    """Linears ``name.part`` that read the same input, as one; each with its number of outputs."""
    return LinearSpec(
        names=tuple(f"{name}.{part}.weight" for part in parts),
        out_features=tuple(parts.values()),
        in_features=inputs,
        bias=tuple(f"{name}.{part}.bias" for part in parts) if bias else (),
        split="columns",
        gate=gate,
    )


def reducing(name: str, outputs: int, inputs: int, bias: bool = False) -> LinearSpec:
    """The linear ``name`` that brings heads, or the MLP's inner units, back to the residual stream."""
    return LinearSpec((f"{name}.weight",), (outputs,), inputs, bias=(f"{name}.bias",) if bias else (), split="rows")


def split_heads(qkv: Array, spec: AttentionSpec) -> tuple[Array, Array, Array]:
    """[T, (q_heads + kv_heads) head_dim + kv_heads v_head_dim] -> q, k, v, each [T, heads, size]."""
    q_end = spec.q_heads * spec.head_dim
    k_end = q_end + spec.kv_heads * spec.head_dim
    return (
        qkv[:, :q_end].reshape(-1, spec.q_heads, spec.head_dim),
        qkv[:, q_end:k_end].reshape(-1, spec.kv_heads, spec.head_dim),
        qkv[:, k_end:].reshape(-1, spec.kv_heads, spec.v_head_dim),
    )
