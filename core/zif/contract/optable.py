"""The table of ops that models and core's device programs call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from zif.contract.arrays import Array, Tree
    from zif.contract.attention import AttentionSpec, RopeSpec
    from zif.contract.experts import ClampedGate, RouteSpec
    from zif.contract.step import Step
    from zif.contract.weights import PackedWeight

Carry = TypeVar("Carry")


class Ops:
    """Bound ops: each attribute is the callable that :func:`zif.contract.binding.bind` chose.

    What each does, with shapes, is in ``zif/contract/ops/``, a file an op family. The declarations here
    give them types; calling one that was not bound raises an AttributeError that names it.
    """

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"op {name!r} is not bound: no request named it and no provider gives it unasked")

    if TYPE_CHECKING:
        # array: what any framework gives, zif/contract/ops/array.py
        def where(self, condition: Array, x: Any, y: Any) -> Array: ...
        def arange(self, size: int, like: Array) -> Array: ...
        def cast(self, x: Array, dtype: str) -> Array: ...
        def put(self, target: Array, index: tuple[Array, ...], values: Any) -> Array: ...
        def add_at(self, target: Array, index: tuple[Array, ...], values: Any) -> Array: ...
        def concat(self, parts: Sequence[Array]) -> Array: ...
        def repeat(
            self, block: Callable[[Tree, Carry, Any], Carry], stacked: Tree, carry: Carry, start: int, stop: int
        ) -> Carry: ...

        # layers: zif/contract/ops/layers.py
        def embedding(self, ids: Array, w: PackedWeight, step: Step | None = None) -> Array: ...
        def linear(self, x: Array, w: PackedWeight, step: Step | None = None) -> Array: ...
        def logits(self, x: Array, w: PackedWeight, step: Step | None = None) -> Array: ...
        def rms_norm(self, x: Array, weight: Array, eps: float, offset: float = 0.0) -> Array: ...
        def add_norm(
            self,
            x: Array,
            residual: Array,
            weight: Array,
            eps: float,
            offset: float = 0.0,
            consumers: tuple[PackedWeight, ...] = (),
            step: Step | None = None,
        ) -> tuple[Array, Array]: ...
        def add(self, x: Array, residual: Array) -> Array: ...
        def norm_add(self, x: Array, residual: Array, weight: Array, eps: float, offset: float = 0.0) -> Array: ...
        def gated_activation(self, x: Array, kind: str) -> Array: ...
        def gated_linear(self, x: Array, w: PackedWeight, kind: str, step: Step | None = None) -> Array: ...
        def softcap(self, x: Array, cap: float) -> Array: ...

        # attention: zif/contract/ops/attention.py
        def rope_angles(self, positions: Array, rope: RopeSpec) -> Array: ...
        def rope(self, x: Array, angles: Array, interleaved: bool = False) -> Array: ...
        def kv_write(self, k: Array, v: Array, cache: Tree, layer: Any, step: Step, spec: AttentionSpec) -> Tree: ...
        def rope_and_cache(
            self,
            q: Array,
            k: Array,
            v: Array,
            cache: Tree,
            layer: Any,
            step: Step,
            spec: AttentionSpec,
            angles: Array | None = None,
            q_norm: Array | None = None,
            k_norm: Array | None = None,
        ) -> tuple[Array, Tree]: ...
        def paged_attention(self, q: Array, cache: Tree, layer: Any, step: Step, spec: AttentionSpec) -> Array: ...
        def attention(
            self,
            q: Array,
            k: Array,
            v: Array,
            cache: Tree,
            layer: Any,
            step: Step,
            spec: AttentionSpec,
            angles: Array | None = None,
            q_norm: Array | None = None,
            k_norm: Array | None = None,
        ) -> tuple[Array, Tree]: ...

        # latent attention and experts: zif/contract/ops/latent.py, zif/contract/ops/moe.py
        def latent_write(self, latent: Array, cache: Tree, layer: Any, step: Step, spec: AttentionSpec) -> Tree: ...
        def head_linear(self, x: Array, w: PackedWeight) -> Array: ...
        def absorbed_attention(self, q: Array, cache: Tree, layer: Any, step: Step, spec: AttentionSpec) -> Array: ...
        def latent_attention(
            self,
            q: Array,
            cache: Tree,
            layer: Any,
            step: Step,
            spec: AttentionSpec,
            k_up: PackedWeight,
            v_up: PackedWeight,
        ) -> Array: ...
        def moe(
            self,
            x: Array,
            weights: Array,
            experts: Array,
            w: PackedWeight,
            kind: str,
            step: Step | None = None,
            clamped: ClampedGate | None = None,
        ) -> Array: ...
        def route(self, logits: Array, spec: RouteSpec, bias: Array | None = None) -> tuple[Array, Array]: ...

        # sampling: zif/contract/ops/sampling.py
        def penalize(
            self,
            logits: Array,
            output_counts: Array,
            in_prompt: Array,
            repetition: Array,
            presence: Array,
            frequency: Array,
        ) -> Array: ...
        def argmax(self, logits: Array) -> Array: ...
        def sample(self, logits: Array, temperature: Array, seed: Array, position: Array) -> Array: ...
        def mask_logits(self, logits: Array, mask: Array) -> Array: ...

        def filter_logits(
            self, logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array
        ) -> Array: ...
        def sample_rows(
            self,
            logits: Array,
            rows: Array,
            temperature: Array,
            seed: Array,
            kv_len: Array,
            last_token: Array,
            random: bool,
        ) -> tuple[Array, Array]: ...
        def logprobs(self, logits: Array, tokens: Array, top: int) -> tuple[Array, Array, Array, Array]: ...

        # the request table around a step: zif/contract/ops/table.py, where sample_rows is too
        def decode_inputs(
            self,
            rows: Array,
            tokens: Array,
            last_token: Array,
            kv_len: Array,
            pages: Mapping[str, Array],
            page_rows: Array,
            page_indices: Array,
            page_ids: Mapping[str, Array],
            width: int,
            factors: Mapping[str, int],
        ) -> tuple[Array, Array, Array, Array, dict[str, Array], Array, dict[str, Array]]: ...
        def mixed_inputs(
            self,
            rows: Array,
            tokens: Array,
            seqs: Array,
            query_starts: Array,
            num_tokens: Array,
            last_token: Array,
            kv_len: Array,
            pages: Mapping[str, Array],
            width: int,
            factors: Mapping[str, int],
        ) -> tuple[Array, Array, Array, dict[str, Array], Array]: ...
