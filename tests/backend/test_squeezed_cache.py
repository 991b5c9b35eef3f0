"""A compressed cache that an extension brings, through the engine: no line of core knows of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.checkpoints import VOCAB, Saved, save
from backend.test_engine import Answer, run
from zif.conformance import run as conform
from zif.contract.attention import AttentionSpec
from zif.contract.cache import CacheGroup
from zif.contract.errors import InvalidSettings
from zif.contract.formats import reference_formats
from zif.contract.kernels import kernel
from zif.contract.step import Step
from zif.engine.engine import Engine
from zif.engine.store import stored_groups
from zif.plugins import extending
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.reference.torch.attention import attend
from zif.reference.torch.reference import TorchReference
from zif.sampling.params import SamplingParams
from zif.settings import Settings
from zif_squeezed.format import Squeezed

RNG = np.random.default_rng(21)
SHARED = RNG.integers(1, VOCAB, 33).tolist()
PROMPTS = [SHARED + RNG.integers(1, VOCAB, size).tolist() for size in (3, 20, 9)] + [[5, 9, 2]]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SCORED = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, prompt_logprobs=0)
PAGE = 4


class SlowModel(TorchReference):
    """The plain cache keeps what is written to it; attention reads what the format says that it would give back."""

    level = 1

    @kernel("paged_attention", capturable=False)
    def paged_attention(self, q: Any, cache: Any, layer: Any, step: Step, spec: AttentionSpec) -> Any:
        group, tables = cache[spec.group], step.pages[spec.group]
        out, starts = torch.zeros_like(q), step.query_starts.tolist()
        size = PAGE if spec.window is not None else 16
        for row, length in enumerate(step.kv_lens.tolist()):
            if starts[row] < starts[row + 1]:
                pages = tables[row, : -(-length // PAGE)]
                raw = [group[name][layer, pages].flatten(0, 1)[:length][None].numpy() for name in ("k", "v")]
                k, v = (torch.from_numpy(Squeezed().restored(rows, size)[0]).float() for rows in raw)
                span = slice(starts[row], starts[row + 1])
                out[span] = attend(q[span], k, v, length - (span.stop - span.start), spec)
        return out


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension, installed."""
    info = tmp_path / "installed" / "zif_squeezed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zif-squeezed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zif.extensions]\nsqueezed = zif_squeezed.plugin\n")
    monkeypatch.syspath_prepend(info.parent)
    extending._report_skipped.cache_clear()


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save("gemma3", tmp_path_factory.mktemp("gemma3"))


def engine_of(saved: Saved, *, slow: bool = False, overlapped: bool = False, **settings: Any) -> Engine:
    backend = TorchBackend(TorchRuntime())
    backend.capabilities = replace(backend.capabilities, asynchronous=overlapped)
    if slow:
        backend.kernels = lambda: (SlowModel(),)  # type: ignore[method-assign]
    own = {"max_total_tokens": 1024, "page_size": PAGE, "dtype": "float32", **settings}
    return build_engine(Settings(model=str(saved.path), **own), progress=False, backend=backend)


def squeezed(saved: Saved, **settings: Any) -> Engine:
    return engine_of(saved, kv_cache_dtype="int4_outliers", **settings)


@pytest.fixture(scope="module")
def modelled(gemma: Saved) -> list[Answer]:
    """What the slow model says, prompts whole, none shared."""
    engine = engine_of(gemma, slow=True, disable_radix_cache=True)
    return run(engine, PROMPTS, [SCORED] * len(PROMPTS))


def tokens_of(answers: list[Answer]) -> list[list[int]]:
    return [answer.tokens for answer in answers]


@pytest.mark.usefixtures("extension")
def test_tokens_and_scores_are_those_of_its_slow_model(gemma: Saved, modelled: list[Answer]) -> None:
    engine = squeezed(gemma)
    sizes = {group.name: group.page_size for group in engine.runner.cache.groups}
    assert sorted(sizes.values()) == [PAGE, 16], "the groups have pages of two sizes"
    found = run(engine, PROMPTS, [SCORED] * len(PROMPTS))
    assert tokens_of(found) == tokens_of(modelled)
    for mine, theirs in zip(found, modelled, strict=True):
        assert mine.prompt_logprobs is not None and theirs.prompt_logprobs is not None
        ours, slow = ([entry.logprob for entry in answer.prompt_logprobs[1:]] for answer in (mine, theirs))
        np.testing.assert_allclose(ours, slow, atol=2e-4)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("overlapped", [False, True], ids=["in turn", "overlapped"])
def test_chunks_and_cached_prefixes_change_nothing(gemma: Saved, modelled: list[Answer], overlapped: bool) -> None:
    engine = squeezed(gemma, chunked_prefill_size=16, overlapped=overlapped)
    for _ in range(2):
        assert tokens_of(run(engine, PROMPTS, [GREEDY] * len(PROMPTS))) == tokens_of(modelled)
    assert engine.stats()["cached_tokens_total"] >= 2 * 32


@pytest.mark.usefixtures("extension")
def test_retracted_requests_come_back_to_the_same(gemma: Saved, modelled: list[Answer]) -> None:
    engine = squeezed(gemma, max_total_tokens=80, schedule_conservativeness=0.1)
    assert tokens_of(run(engine, PROMPTS, [GREEDY] * len(PROMPTS))) == tokens_of(modelled)
    assert engine.stats()["retractions_total"] > 0


@pytest.mark.usefixtures("extension")
def test_it_is_smaller_and_nearly_right(gemma: Saved, modelled: list[Answer]) -> None:
    plain = engine_of(gemma)
    narrow = squeezed(gemma)
    assert narrow.stats()["cache_bytes"] < 0.4 * plain.stats()["cache_bytes"]
    exact = run(plain, PROMPTS, [SCORED] * len(PROMPTS))
    off = [
        abs(mine.logprob - theirs.logprob)
        for answer, other in zip(modelled, exact, strict=True)
        for mine, theirs in zip((answer.prompt_logprobs or [])[1:], (other.prompt_logprobs or [])[1:], strict=True)
    ]
    assert 0 < np.mean(off) < Squeezed.error


@pytest.mark.usefixtures("extension")
def test_what_it_does_not_store_is_said(tmp_path: Path) -> None:
    saved = save("llama", tmp_path)
    with pytest.raises(InvalidSettings, match="int4: torch stores keys and values in int4_outliers, float32, bfloat16"):
        engine_of(saved, kv_cache_dtype="int4")
    latents = CacheGroup("latent", "latent", 2, 1, 40, 0)
    with pytest.raises(InvalidSettings, match="'latent': squeezes keys and values, not latents; torch"):
        stored_groups([latents], [Squeezed(), *reference_formats(["float32"])], Squeezed.name, 16, "torch")


@pytest.mark.usefixtures("extension")
def test_it_conforms_on_a_backend_that_knows_nothing_of_it() -> None:
    only = ["caches/int4_outliers*", "ops/kv_write/*int4_outliers*/squeezed*"]
    report = conform("cpu", only=only)
    assert report.passed, report.summary()
    assert sum(result.status == "pass" for result in report.results) > 20
