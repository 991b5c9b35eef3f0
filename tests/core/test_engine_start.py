"""What an engine says at its start: of memory that does not suffice, and of kernels that were passed over."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from zif.conformance.variants import eager
from zif.contract.backend import Capabilities
from zif.contract.errors import OutOfMemory
from zif.contract.kernels import KernelSet, kernel
from zif.contract.opspec import OpRequest
from zif.contract.weights import EmbeddingSpec, ExpertsSpec, HeadsSpec, LinearSpec, RepeatedSpec, VectorSpec
from zif.null.backend import NullBackend, NullOptions
from zif.process.build import build_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.reference.torch.reference import TorchReference
from zif.settings import Settings
from zif.weights import parameters_per_token

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4096, "hidden_size": 512,
    "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float32",
    "tie_word_embeddings": True,
}  # fmt: skip
"""48 MiB of weights in float32, 16 KiB of cache a token."""
MULTIPLIED = 4 * (4 * 512 * 512 + 3 * 512 * 1024)
"""Those of its weights that each token is multiplied with."""


def start(tmp_path: Path, memory_mb: int, **settings: Any) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    backend = NullBackend(NullOptions(memory_mb=memory_mb))
    given = {"dtype": "float32", "page_size": 16, **settings}
    return build_engine(Settings(model=str(tmp_path), load_format="dummy", **given), progress=False, backend=backend)


def test_weights_that_do_not_fit_name_a_dtype_that_does(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory) as caught:
        start(tmp_path, 40)
    message = str(caught.value)
    assert "the weights take 0.05 GiB in float32, and 0.04 GiB of 0.04 GiB were free" in message
    assert "with --dtype bfloat16 they take 0.02 GiB" in message
    assert start(tmp_path, 40, dtype="bfloat16").stats()["cache_tokens"] > 0


def test_weights_that_never_fit_say_so(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="a smaller model, or a device with more memory"):
        start(tmp_path, 20)


def test_tokens_that_do_not_fit_name_how_many_would(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"--max-total-tokens 4096 takes 0\.06 GiB") as caught:
        start(tmp_path, 64, max_total_tokens=4096)
    words = str(caught.value).split()
    fit = int(words[words.index("most") + 1])
    narrow = int(words[words.index("or") + 1])
    assert 0 < fit < 1024
    assert 2 * fit <= narrow <= 2 * fit + 32  # one page less is nobody's
    assert "--kv-cache-dtype bfloat16" in str(caught.value)
    assert start(tmp_path, 64, max_total_tokens=fit).stats()["cache_tokens"] == fit
    wide = start(tmp_path, 64, max_total_tokens=narrow, kv_cache_dtype="bfloat16")
    assert wide.stats()["cache_tokens"] == narrow


def test_no_room_for_a_cache_names_the_fraction_that_leaves_some(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="no memory is left for the KV cache") as caught:
        start(tmp_path, 100, mem_fraction_static=0.3)
    words = str(caught.value).split()
    fraction = float(words[words.index("would") - 1])
    assert 0.4 < fraction < 0.6
    start(tmp_path, 100, mem_fraction_static=fraction)
    with pytest.raises(OutOfMemory):
        start(tmp_path, 100, mem_fraction_static=fraction - 0.01)


class Faster(KernelSet):
    """Refuses the head size of the model, and everything else for the lack of a library."""

    provider = "faster"
    level = 1

    def _small(self, request: OpRequest) -> str | None:
        return f"takes heads of 64, not {request['head_dim']}" if request["head_dim"] != 64 else None

    def _missing(self, request: OpRequest) -> str | None:
        return "a library is not installed (pip install library)"

    @kernel("paged_attention", when=_small)
    def paged_attention(self, q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
        raise AssertionError("never served")

    @kernel("gated_activation", when=_missing)
    def gated_activation(self, x: Any, kind: str) -> Any:
        raise AssertionError("never served")

    @kernel("embedding", when=_missing)
    def embedding(self, ids: Any, w: Any, step: Any = None) -> Any:
        raise AssertionError("never served")


class Plain(KernelSet):
    provider = "plain"
    level = 1

    @kernel("gated_activation")
    def gated_activation(self, x: Any, kind: str) -> Any:
        return x


class Backend(TorchBackend):
    capabilities = Capabilities(dtypes=("float32",), asynchronous=False)

    def kernels(self) -> Any:
        return (Faster(), Plain(), TorchReference())


def test_kernels_passed_over_are_reported_and_a_reference_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"head_dim": 80}))
    settings = Settings(model=str(tmp_path), load_format="dummy", max_total_tokens=64)
    with caplog.at_level(logging.INFO, "zif.engine.kernel_report"):
        build_engine(settings, progress=False, backend=Backend(TorchRuntime()))
    said = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "zif.engine.kernel_report"
    ]
    library = "faster.gated_activation: a library is not installed (pip install library)"
    table = "faster.embedding: a library is not installed (pip install library)"
    heads = "faster.paged_attention: takes heads of 64, not 80"
    own = "embedding (a library is not installed (pip install library)); paged_attention (takes heads of 64, not 80)"
    slow = "serves: steps are slow, and not captured as graphs"
    assert sorted(said) == [
        ("INFO", f"embedding: torch_reference.embedding serves ({table})"),
        ("INFO", f"gated_activation: plain.gated_activation serves ({library})"),
        ("WARNING", f"on kernels of torch_reference, although the backend has its own: {own}"),
        ("WARNING", f"paged_attention: torch_reference.paged_attention {slow} ({heads})"),
    ]


class Asked:
    """Executables, with what is called of them written down."""

    def __init__(self, executables: Any) -> None:
        self._executables = executables
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            self.calls.append((name, given))
            return getattr(self._executables, name)(*given)

        return call


@pytest.mark.parametrize("variant", [lambda backend: backend, eager], ids=["null", "a variant of it"])
def test_executables_are_told_what_to_expect_before_they_are_asked(tmp_path: Path, variant: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    backend: Any = NullBackend(NullOptions())
    backend.executables = asked = Asked(backend.executables)
    settings = Settings(model=str(tmp_path), load_format="dummy", dtype="float32")
    engine = build_engine(settings, progress=False, backend=variant(backend))
    assert asked.calls[0] == ("expect", (MULTIPLIED,))
    engine.runner.staging.shapes.warmed()
    assert [name for name, _ in asked.calls].count("expect") == 1
    assert {"bucket", "captures"} <= {name for name, _ in asked.calls}


def test_parameters_per_token_are_those_of_a_tokens_own_products() -> None:
    class Model:
        def weights(self) -> Any:
            layer = {
                "norm": VectorSpec("norm", (8,)),
                "qkv": LinearSpec(("q", "k"), (6, 2), 8, bias=("b", "c")),
                "absorbed": HeadsSpec("kv", heads=3, head_rows=9, columns=7, first=4, last=9),
                "experts": ExpertsSpec("g", "u", "d", experts=16, hidden=8, size=5, top_k=2),
            }
            head = LinearSpec(("head",), (99,), 8, split="vocab")
            return {"embed": EmbeddingSpec("table", 99, 8), "body": RepeatedSpec([layer, layer]), "lm_head": head}

    model: Any = Model()
    assert parameters_per_token(model) == 2 * (8 * 8 + 3 * 5 * 7 + 2 * 3 * 8 * 5)
