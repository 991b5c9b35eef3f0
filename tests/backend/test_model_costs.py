"""``zif devices --ops NAME --model M``: what the ops of a model cost, and which kernels were refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zif import bundled
from zif.cli.costs import model_costs
from zif.cli.main import main
from zif.contract.backend import Capabilities
from zif.contract.cost import Cost, OpCall, traffic
from zif.contract.kernels import KernelSet, kernel
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest
from zif.reference.torch import TorchBackend, TorchReference, TorchRuntime
from zif.settings import Settings

CONFIG = json.loads((bundled.path() / "config.json").read_text())
LAYERS, HIDDEN = CONFIG["num_hidden_layers"], CONFIG["hidden_size"]


class Picky(KernelSet):
    """Refuses attention, and says of sums what they cost."""

    provider = "picky"
    level = 1

    def _refuses(self, request: OpRequest) -> str | None:
        return "takes heads of 7"

    def _free(self, call: OpCall) -> Cost:
        return Cost(3e9, 5e6)

    @kernel("paged_attention", when=_refuses)
    def paged_attention(self, q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any:
        raise AssertionError("never served")

    @kernel("add", cost=_free)
    def add(self, x: Any, residual: Any) -> Any:
        return x + residual


class Backend(TorchBackend):
    capabilities = Capabilities(dtypes=("float32",), asynchronous=False)

    def kernels(self) -> Any:
        return (Picky(), TorchReference())


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    settings = Settings(
        model=str(bundled.path()), max_running_requests=1, max_total_tokens=512, disable_overlap_schedule=True
    )
    rates, rows, _ = model_costs(settings, Backend(TorchRuntime()))
    assert rates.bytes_per_s > 1e7 and rates.flops_per_s > 1e7
    return {row["op"]: row for row in rows}


def test_a_step_calls_what_a_model_is_made_of(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["paged_attention"]["decode calls"] == LAYERS
    assert rows["rms_norm"]["decode calls"] >= 2 * LAYERS  # the composite's, and what it is in calls of its own
    assert "gated_linear" not in rows and "attention" not in rows  # composites cost what their parts do
    assert rows["linear"]["decode calls"] == 4 * LAYERS + 1


def test_a_decode_step_reads_the_weights_and_a_prefill_multiplies_with_them(rows: dict[str, dict[str, Any]]) -> None:
    weights = sum(spec.per_token() for spec in _linear_specs()) + CONFIG["vocab_size"] * HIDDEN  # and the head
    linear = rows["linear"]
    assert linear["decode MB"] == pytest.approx(4 * weights / 1e6, rel=0.05)
    assert linear["prefill GFLOP"] > 100 * 2 * weights / 1e9
    assert sum(row.get("decode share", 0) for row in rows.values()) == pytest.approx(100, abs=2)


def _linear_specs() -> Any:
    import zif_models
    from zif.contract.weights import LinearSpec, RepeatedSpec
    from zif.contract.weights.spec import named_specs

    for _, spec in named_specs(zif_models.resolve(CONFIG, {}).build(CONFIG).weights()):
        if isinstance(spec, LinearSpec | RepeatedSpec):
            yield spec


def test_a_kernel_that_was_refused_is_named_and_one_that_states_its_cost_is_believed(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert rows["paged_attention"]["refused"] == "picky.paged_attention: takes heads of 7"
    assert rows["paged_attention"]["kernel"] == "torch_reference.paged_attention"
    assert rows["add"]["kernel"] == "picky.add"
    assert rows["add"]["decode MB"] == pytest.approx(5 * rows["add"]["decode calls"])


def test_an_op_that_states_no_cost_moves_its_arguments_and_results() -> None:
    import numpy as np

    x = np.zeros((3, 5), np.float32)
    call = OpCall({"x": x, "cap": 2.0, "step": x}, x, 0, 0, {})
    assert op_specs()["softcap"].cost is traffic
    assert traffic(call) == Cost(0.0, 2 * 60)


def test_the_table_and_what_model_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--ops", "cpu", "--model", str(bundled.path())]) == 0
    first, head, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("measured: ") and "GB/s copied" in first
    assert head.split()[:2] == ["op", "kernel"]
    assert main(["devices", "--model", "m"]) != 0
    assert "--model needs --ops NAME" in capsys.readouterr().err
