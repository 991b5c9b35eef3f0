"""A cache of integers with scales on torch and on JAX: written, read, and what comes back, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.driver import to_host
from spike.frameworks import BOTH, JAX, Framework
from zif.contract.arrays import tree_map
from zif.contract.attention import AttentionSpec
from zif.contract.binding import bind
from zif.contract.cache import CacheGroup
from zif.contract.formats import ScaledFormat
from zif.contract.ops import op_specs
from zif.contract.ops.attention import attention_request, draw_step

PAGE, LAYERS = 4, 2
GROUPS = {
    "keys and values": CacheGroup("g", "paged", LAYERS, 2, 32, 32),
    "latents": CacheGroup("g", "latent", LAYERS, 1, 40, 0),
}


@pytest.mark.parametrize("framework", BOTH, ids=lambda framework: framework.name)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_what_is_written_is_read_as_the_format_says(framework: Framework, group: CacheGroup) -> None:
    latent, rng = group.kind == "latent", np.random.default_rng(4)
    spec = AttentionSpec("g", 4, group.kv_heads, group.head_dim, group.v_head_dim or 32, 0.2)
    writes, reads = ("latent_write", "absorbed_attention") if latent else ("kv_write", "paged_attention")
    backend = framework.backend()
    requests = [attention_request(op, "float32", spec, PAGE, "int8", "scaled") for op in (writes, reads)]
    ops: Any = bind(requests, backend.kernels()).ops
    step, num_pages = draw_step(rng, [0, 0], [9, 3], PAGE, "g", pad=2)
    dims = {"k": group.head_dim} if latent else {"k": group.head_dim, "v": group.v_head_dim}
    rows = {name: rng.standard_normal((14, group.kv_heads, dim)).astype(np.float32) for name, dim in dims.items()}
    q = rng.standard_normal((14, 4, group.head_dim)).astype(np.float32)

    def unwritten(name: str, spec: Any) -> Any:
        fill = np.nan if name.endswith("scale") else 0x7F
        return backend.runtime.put(np.full(spec.shape, fill, spec.dtype))

    specs = ScaledFormat().arrays(group, PAGE, num_pages)
    cache: Any = {"g": {name: unwritten(name, spec) for name, spec in specs.items()}}

    def run(cache: Any, q: Any, step: Any, rows: Any) -> Any:
        given = (rows["k"][:, 0],) if latent else (rows["k"], rows["v"])
        cache = getattr(ops, writes)(*given, cache, 1, step, spec)
        return getattr(ops, reads)(q, cache, 1, step, spec), cache

    put = backend.runtime.put
    found, cache = _compiled(framework, run)(cache, put(q), tree_map(put, step), tree_map(put, rows))

    restored = {name: np.zeros((LAYERS, num_pages, PAGE, *given.shape[1:])) for name, given in rows.items()}
    for name, given in rows.items():
        scales, integers = (to_host(cache["g"][key]).astype(np.float32) for key in (f"{name}_scale", name))
        for token in range(12):
            page, offset = divmod(int(step.positions[token]), PAGE)
            at = (1, step.pages["g"][step.seqs[token], page], offset)
            wanted = ScaledFormat().restored(given[token][None, None], PAGE)[0, 0]
            np.testing.assert_array_equal(integers[at] * scales[at][:, None], wanted)
            restored[name][at] = wanted
    wide = {"g": restored}
    expected = op_specs()[reads].reference(q.astype(np.float64), wide, 1, step, spec)
    np.testing.assert_allclose(to_host(found)[:12], expected[:12], atol=2e-5, rtol=1e-4)


def _compiled(framework: Framework, fn: Any) -> Any:
    if framework is not JAX:
        return fn
    import jax

    return jax.jit(fn)
