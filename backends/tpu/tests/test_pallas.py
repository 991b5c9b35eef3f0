"""Pallas kernels in TPU interpret mode: unwritten memory is NaN, and races between copies are looked for."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.cache import CacheGroup
from zif.contract.ops.attention import attention_request, draw_step, paged_attention, rope_and_cache, rope_angles
from zif.contract.ops.attention import kv_write as kv_write_reference
from zif.contract.opspec import OpRequest
from zif_tpu.kernels import PallasKernels
from zif_tpu.layout import JoinedFormat

Facts = dict[str, Any]
CASES: dict[str, tuple[Facts, list[int], list[int], int, int, str]] = {
    # name: facts of the spec, cached, new, page size, padding tokens, dtype
    "chunks and decodes, padded": ({}, [20, 9, 0], [16, 1, 3], 4, 4, "float32"),
    "decode": ({}, [0, 6, 300, 17], [1, 1, 1, 1], 16, 0, "float32"),
    "window": ({"window": 8}, [3, 30, 0], [1, 6, 20], 4, 0, "float32"),
    "softcap": ({"softcap": 5.0}, [12, 0], [1, 7], 16, 0, "bfloat16"),
    "one head, paired": ({"q_heads": 4, "kv_heads": 1}, [20, 9, 0], [16, 1, 3], 16, 4, "bfloat16"),
    "beside": ({"head_dim": 64, "v_head_dim": 64}, [20, 9, 0], [16, 1, 3], 16, 4, "float32"),
    "beside, three heads of 96": (
        {"q_heads": 6, "kv_heads": 3, "head_dim": 96, "v_head_dim": 96, "window": 8},
        [3, 30],
        [1, 6],
        8,
        0,
        "bfloat16",
    ),
    "one head of 64, paired": (
        {"q_heads": 4, "kv_heads": 1, "head_dim": 64, "v_head_dim": 64},
        [20, 9],
        [2, 1],
        16,
        0,
        "float32",
    ),
    "several blocks, multi-head": ({"q_heads": 8, "kv_heads": 8}, [700, 0, 3], [1, 70, 1], 16, 0, "bfloat16"),
}
TURNS = {"rope_and_cache"}
FAST = ("chunks and decodes, padded", "beside", "one head of 64, paired")


def races() -> bool:
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    return bool(interpret_pallas_call.races.races_found)


def laid_out(cache: dict[str, Any]) -> dict[str, Any]:
    """A plain cache as the backend lays it out."""
    import jax.numpy as jnp

    keys, values = cache["k"], cache["v"]
    layers, pages, page_size, heads, head = keys.shape
    group = CacheGroup("g", "paged", layers, heads, head, head)
    joined = JoinedFormat(str(keys.dtype))
    if joined.refusal(group, page_size) is not None:
        return {name: jnp.asarray(array) for name, array in cache.items()}
    out = np.zeros(joined.arrays(group, page_size, pages)["kv"].shape, keys.dtype)
    if heads == 1:
        out[..., :1, :head], out[..., 1:, :head] = keys, values
    else:
        out[..., :heads, :head], out[..., :heads, head : 2 * head] = keys, values
    return {"kv": jnp.asarray(out)}


def taken_apart(cache: dict[str, Any], heads: int, head: int) -> dict[str, Any]:
    """The contrary of ``laid_out``, in float64."""
    arrays = {name: np.asarray(array, np.float64) for name, array in cache.items()}
    if "kv" not in arrays:
        return arrays
    kv = arrays["kv"]
    if heads == 1:
        return {"k": kv[..., :1, :head], "v": kv[..., 1:, :head]}
    return {"k": kv[..., :heads, :head], "v": kv[..., :heads, head : 2 * head]}


def serving(op: str) -> Any:
    (kernel,) = [kernel for kernel in PallasKernels(interpret=True).kernels() if kernel.op == op]
    return kernel


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n not in FAST)])
def test_ragged_attention(name: str) -> None:
    import jax
    import jax.numpy as jnp

    changes, before, new, page_size, pad, dtype = CASES[name]
    facts = {"q_heads": 4, "kv_heads": 2, "head_dim": 128, "v_head_dim": 128, **changes}
    spec = AttentionSpec(group="g", scale=0.09, **facts)
    rng = np.random.default_rng(0)
    step, pages = draw_step(rng, before, new, page_size, "g", pad)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    q = rng.standard_normal((step.shape.tokens, spec.q_heads, spec.head_dim)).astype(kind)
    cache = {
        name: rng.standard_normal((2, pages, page_size, spec.kv_heads, spec.head_dim)).astype(kind)
        for name in ("k", "v")
    }
    wide = {name: array.astype(np.float64) for name, array in cache.items()}
    wanted = paged_attention(q.astype(np.float64), {"g": wide}, 1, step, spec)
    seen = np.zeros((pages, page_size), bool)
    for row, length in enumerate(step.kv_lens):
        first = 0 if spec.window is None else max(0, length - new[row] - spec.window + 1)
        at = np.arange(first, length)
        seen[step.pages["g"][row, at // page_size], at % page_size] = True
    for array in cache.values():  # another layer's, other sequences', and what a window left behind
        array[0], array[1][~seen] = np.nan, np.nan
    kernel = serving("paged_attention")
    request = attention_request("paged_attention", dtype, spec, page_size, dtype)
    assert kernel.supports(request) is None
    run = jax.jit(kernel.make(request, None), static_argnames="spec")
    from zif.contract.arrays import tree_map
    from zif.reference.jax import register_trees

    register_trees()
    found = run(jnp.asarray(q), {"g": laid_out(cache)}, 1, tree_map(jnp.asarray, step), spec=spec)
    real = int(step.num_tokens[0])
    error = np.abs(np.asarray(found, np.float64)[:real] - wanted[:real]).max()
    assert error < (2e-2 if dtype == "bfloat16" else 1e-5)
    assert not races()


@pytest.mark.parametrize("pools", [1, 2])
def test_kv_write(pools: int) -> None:
    import jax
    import jax.numpy as jnp

    from zif_tpu.pallas.kv_write import kv_write

    rng = np.random.default_rng(0)
    tokens, real, page_size, pages = 21, 19, 16, 6
    new = [rng.standard_normal((tokens, 2, 128)).astype(np.float32) for _ in range(pools)]
    stored = [rng.standard_normal((2, pages, page_size, 2, 128)).astype(np.float32) for _ in range(pools)]
    slots = rng.permutation(np.arange(page_size, pages * page_size))[:tokens].astype(np.int32)
    params = PallasKernels(interpret=True)._interpret
    page, offset = slots // page_size, slots % page_size
    found = jax.jit(lambda *args: kv_write(*args, interpret=params))(
        tuple(map(jnp.asarray, new)), tuple(map(jnp.asarray, stored)),
        *map(jnp.asarray, (np.int32(1), page, offset, np.array([real], np.int32))),
    )  # fmt: skip
    for source, pool, written in zip(new, stored, found, strict=True):
        pool[1, page[:real], offset[:real]] = source[:real]
        np.testing.assert_array_equal(np.asarray(written), pool)
    assert not races()


@pytest.mark.parametrize(
    ("eps", "turned", "kv_heads", "dtype"),
    [(1e-6, True, 2, "bfloat16"), (None, True, 1, "float32"), (1e-6, False, 2, "float32"), (None, True, 3, "bfloat16")],
)
def test_rope_write(eps: float | None, turned: bool, kv_heads: int, dtype: str) -> None:
    """Against the float64 specification: blocks of tokens, the last of them cut, and padding that goes nowhere."""
    import jax
    import jax.numpy as jnp

    from zif.contract.arrays import tree_map
    from zif.reference.jax import register_trees

    register_trees()
    turns = RopeSpec(128, tuple(1e4 ** (-np.arange(64) / 64))) if turned else None
    q_heads = 6 if kv_heads == 3 else 4
    heads = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": 128, "v_head_dim": 128}
    spec = AttentionSpec(group="g", scale=1.0, rope=turns, qk_norm_eps=eps, qk_norm_offset=1.0, **heads)
    rng = np.random.default_rng(0)
    step, pages = draw_step(rng, [20, 9, 0], [16, 1, 580], 16, "g", pad=4)
    tokens = step.shape.tokens
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
    q, k, v = (rng.standard_normal((tokens, count, 128)).astype(kind) for count in (q_heads, kv_heads, kv_heads))
    cache = {name: rng.standard_normal((2, pages, 16, kv_heads, 128)).astype(kind) for name in ("k", "v")}
    q_norm, k_norm = (rng.standard_normal(128).astype(kind) if eps else None for _ in "qk")
    angles = None if turns is None else rope_angles(np.asarray(step.positions), turns).astype(np.float32)
    arguments = (q, k, v, {"g": cache}, 1, step, spec, angles, q_norm, k_norm)
    widened = tree_map(lambda array: array.astype(np.float64), [q, k, v, {"g": cache}])
    norms = [None if norm is None else norm.astype(np.float64) for norm in (q_norm, k_norm)]
    wanted, written = rope_and_cache(*widened, 1, step, spec, angles, *norms)
    kernel = serving("rope_and_cache")
    assert kernel.supports(attention_request("rope_and_cache", dtype, spec, 16, dtype)) is None
    on_device = [None if one is None or one is spec else tree_map(jnp.asarray, one) for one in arguments]
    on_device[3] = {"g": laid_out(cache)}
    run = jax.jit(lambda q, k, v, cache, layer, step, angles, *norms: kernel.make(None, None)(
        q, k, v, cache, layer, step, spec, angles, *norms
    ))  # fmt: skip
    found, stored = run(*on_device[:6], *on_device[7:])
    real = int(step.num_tokens[0])
    tolerance = {"rtol": 1e-2, "atol": 3e-2} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(np.asarray(found, np.float64)[:real], wanted[:real], **tolerance)
    for name, array in taken_apart(stored["g"], kv_heads, 128).items():
        np.testing.assert_allclose(array, written["g"][name], **tolerance)
    assert not races()


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"page_size": 4}, "pages of a multiple of 8 tokens, not 4: give another --page-size"),
        ({"head_dim": 72, "v_head_dim": 72}, "heads of a multiple of 16, not 72"),
        ({"v_head_dim": 64}, "keys and values of one size, not 128 and 64"),
        ({"kv_heads": 65, "q_heads": 65}, "up to 64 kv heads, not 65"),
        ({"cache_format": "fp8_e4m3"}, "takes a plain cache of bfloat16, not fp8_e4m3"),
    ],
    ids=str,
)
def test_what_kernels_refuse(change: Facts, refusal: str) -> None:
    facts = {"q_heads": 16, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, "page_size": 64}
    facts |= {"cache_format": "bfloat16", "cache_layout": "plain", **change}
    request = OpRequest.of("paged_attention", "bfloat16", **facts)
    answers = {kernel.op: kernel.supports(request) for kernel in PallasKernels().kernels() if kernel.op not in TURNS}
    assert set(answers) == {"kv_write", "paged_attention"}
    assert all(refusal in str(answer) for answer in answers.values())


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"head_dim": 64, "v_head_dim": 64}, "turns heads of a multiple of 128, not 64"),
        ({"rope": RopeSpec(64, (1.0,) * 32)}, "turns whole heads, not 64 of 128"),
        ({"rope": RopeSpec(128, (1.0,) * 64, interleaved=True)}, "turns pairs of (i, i + half), not neighbours"),
        ({"v_head_dim": 64}, "keys and values of one size, not 128 and 64"),
    ],
    ids=str,
)
def test_what_the_kernel_that_turns_refuses(change: Facts, refusal: str) -> None:
    facts = {"q_heads": 16, "kv_heads": 8, "head_dim": 128, "v_head_dim": 128, **change}
    spec = AttentionSpec(group="g", scale=1.0, **facts)
    request = attention_request("rope_and_cache", "bfloat16", spec, 64, "bfloat16")
    (kernel,) = [kernel for kernel in PallasKernels().kernels() if kernel.op in TURNS]
    assert refusal in str(kernel.supports(request))


@pytest.mark.parametrize(
    ("kv_heads", "head", "shape"),
    [
        (1, 32, (2, 128)),
        (2, 64, (2, 128)),
        (8, 96, (8, 256)),
        (3, 64, (4, 128)),
        (10, 128, (16, 256)),
    ],
)
def test_rows_of_the_cache_are_whole_registers(kv_heads: int, head: int, shape: tuple[int, int]) -> None:
    group = CacheGroup("g", "paged", 2, kv_heads, head, head)
    assert JoinedFormat("bfloat16").refusal(group, 16) is None
    assert JoinedFormat("bfloat16").arrays(group, 16, 7)["kv"].shape == (2, 7, 16, *shape)


def test_groups_whose_rows_are_whole_registers_are_stored_plain() -> None:
    joined = JoinedFormat("bfloat16")
    assert "stored plain" in (joined.refusal(CacheGroup("g", "paged", 2, 8, 128, 128), 16) or "")
    assert "of one size" in (joined.refusal(CacheGroup("g", "latent", 2, 1, 32, 0), 16) or "")


def test_a_single_head_is_stored_in_pairs() -> None:
    """What a kernel refuses of such a group, the reference serves."""
    import jax.numpy as jnp

    from zif.contract.arrays import tree_map
    from zif_tpu.layout import TpuReference

    spec = AttentionSpec(group="g", scale=0.2, q_heads=4, kv_heads=1, head_dim=32, v_head_dim=32)
    arrays = JoinedFormat("float32").arrays(CacheGroup("g", "paged", 2, 1, 32, 32), 16, 7)
    assert {name: array.shape for name, array in arrays.items()} == {"kv": (2, 7, 16, 2, 128)}
    rng = np.random.default_rng(0)
    step, pages = draw_step(rng, [20, 9], [3, 1], 16, "g", pad=2)
    q, k, v = (rng.standard_normal((6, count, 32)).astype(np.float32) for count in (4, 1, 1))
    cache = {name: rng.standard_normal((2, pages, 16, 1, 32)).astype(np.float32) for name in ("k", "v")}
    wide = tree_map(lambda array: array.astype(np.float64), {"g": cache})
    wanted = paged_attention(q.astype(np.float64), kv_write_reference(k, v, wide, 1, step, spec), 1, step, spec)
    reference, on_device = TpuReference(), tree_map(jnp.asarray, step)
    stored = reference.kv_write(jnp.asarray(k), jnp.asarray(v), {"g": laid_out(cache)}, 1, on_device, spec)
    found = reference.paged_attention(jnp.asarray(q), stored, 1, on_device, spec)
    np.testing.assert_allclose(np.asarray(found)[:4], wanted[:4], rtol=1e-5, atol=1e-5)
