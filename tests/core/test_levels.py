"""How the contract grows: an invented level 2 of it, beside a plugin that was written for level 1."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import frozen_level_1
from zif.conformance import run
from zif.conformance.profiles import required
from zif.contract import version
from zif.contract.attention import AttentionSpec, RopeSpec
from zif.contract.backend import Backend, Runtime
from zif.contract.binding import bind
from zif.contract.cache import CacheGroup
from zif.contract.errors import KernelNotFound, PluginError
from zif.contract.executable import Executables
from zif.contract.kernels import KernelSet, kernel
from zif.contract.level import added
from zif.contract.ops import layers, op_specs
from zif.contract.ops.attention import attention_request
from zif.contract.opspec import REGISTRY, Fact, OpCase, OpRequest, OpSpec
from zif.contract.packer import Packer
from zif.contract.step import StepShape
from zif.contract.weights import LinearSpec

SPEC = {"group": "g", "q_heads": 2, "kv_heads": 1, "head_dim": 8, "v_head_dim": 8, "scale": 1.0}
ACTIVATION = {"size": 4, "kind": "silu"}


@dataclass(frozen=True, slots=True)
class Attention2(AttentionSpec):
    """As level 2 has it."""

    causal: bool = added(2, True)


def softcap(x: Any, cap: float, step: Any = None) -> Any:
    """As level 2 has it: ``step`` is a hint."""
    return layers.softcap(x, cap)


def doubled(x: Any) -> Any:
    """An op of level 2."""
    return 2 * x


def _newer_cases(rng: np.random.Generator, dtype: str) -> Iterator[OpCase]:
    spec = op_specs()["gated_activation"]
    for limit in (None, 7.0):
        request = OpRequest.of("gated_activation", dtype, size=4, kind="silu", limit=limit)
        yield OpCase(f"limit {limit}", request, {"x": rng.standard_normal((3, 8)), "kind": "silu"})
    assert spec.cases is not None
    yield OpCase(
        "of level 1", OpRequest.of("gated_activation", dtype, **ACTIVATION), {"x": np.ones((1, 8)), "kind": "silu"}
    )


@pytest.fixture
def level_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract of level 2: more parameters, facts, words, fields and ops."""
    monkeypatch.setattr(version, "API_VERSION", 2)
    old = REGISTRY["softcap"]
    monkeypatch.setitem(REGISTRY, "softcap", replace(old, reference=softcap, added={"step": 2}))
    activation = REGISTRY["gated_activation"]
    kinds = Fact("kind", "the activation", values={"silu": 1, "gelu_tanh": 1, "relu2": 2})
    facts = (activation.facts[0], kinds, Fact("limit", "bound of the gates, or None", since=2))
    monkeypatch.setitem(REGISTRY, "gated_activation", replace(activation, facts=facts, cases=_newer_cases))
    monkeypatch.setitem(REGISTRY, "doubled", OpSpec("doubled", doubled, profile="llm", since=2))


def bound(*requests: OpRequest) -> Any:
    """With the frozen plugin's own kernels before the reference."""
    module = importlib.reload(frozen_level_1)  # its classes are checked against the contract that there is now
    return bind(requests, module.FrozenBackend(module.TorchRuntime()).kernels())


def refusal(request: OpRequest) -> str:
    with pytest.raises(KernelNotFound) as caught:
        bound(request)
    return str(caught.value)


def attention(**fields: Any) -> OpRequest:
    return attention_request("paged_attention", "float32", Attention2(**SPEC, **fields), 16, "float32")


# --- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("level_2")
def test_a_newer_parameter_is_dropped_from_the_calls_of_an_older_kernel() -> None:
    import torch

    ops, x = bound().ops, torch.linspace(-90, 90, 7)
    for result in (ops.softcap(x, 30.0, object()), ops.softcap(x, 30.0, step=object()), ops.softcap(x, cap=30.0)):
        assert torch.equal(result, torch.tanh(x / 30) * 30)


def test_nothing_is_between_a_call_and_a_kernel_of_the_same_level() -> None:
    assert bound().ops.softcap.__func__ is frozen_level_1.FrozenKernels.softcap


@pytest.mark.parametrize(("level", "parameters"), [(1, "self, x, cap, step=None"), (2, "self, x, cap")])
@pytest.mark.usefixtures("level_2")
def test_a_kernel_has_just_the_parameters_of_its_level(level: int, parameters: str) -> None:
    with pytest.raises(TypeError, match=rf"a level-{level} kernel of softcap has parameters"):
        _define(level, "softcap", parameters)


def test_a_parameter_that_is_added_comes_last_and_has_a_default() -> None:
    def first(step: Any = None, x: Any = None) -> Any:
        """Added before an old one."""

    def hard(x: Any, step: Any) -> Any:
        """Added without a default."""

    for reference, complaint in ((first, "come last"), (hard, "no default")):
        with pytest.raises(AssertionError, match=complaint):
            OpSpec("f", reference, profile="llm", added={"step": 2})


# --- facts and fields ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("level_2")
def test_a_newer_field_is_no_concern_where_it_is_neutral_and_refused_where_it_is_not() -> None:
    (choice,) = bound(attention()).choices
    assert str(choice.kernel) == "frozen.paged_attention"
    told = refusal(attention(causal=False))
    assert "frozen.paged_attention: was written for level 1 of the contract, and Attention2.causal = False" in told


@pytest.mark.usefixtures("level_2")
def test_a_newer_fact_is_neutral_where_a_request_does_not_name_it_and_refused_where_it_says_more() -> None:
    request = OpRequest.of("gated_activation", "float32", **ACTIVATION)
    assert request["limit"] is None
    assert bound(request).choices[0].kernel.provider == "frozen"
    assert bound(request.but(limit=None)).choices[0].kernel.provider == "frozen"
    assert "limit = 7.0 came with level 2" in refusal(request.but(limit=7.0))


@pytest.mark.usefixtures("level_2")
def test_a_newer_word_of_a_fact_is_refused() -> None:
    assert "kind = 'relu2' came with level 2" in refusal(
        OpRequest.of("gated_activation", "float32", size=4, kind="relu2")
    )


@pytest.mark.usefixtures("level_2")
def test_a_set_of_the_newer_level_serves_what_the_older_is_kept_from() -> None:
    class Newer(KernelSet):
        provider = "newer"
        level = 2

        @kernel("paged_attention")
        def paged_attention(self, q: Any, cache: Any, layer: Any, step: Any, spec: Any) -> Any: ...

    kernels = (frozen_level_1.FrozenKernels(), Newer(), frozen_level_1.TorchReference())
    (choice,) = bind([attention(causal=False)], kernels).choices
    assert str(choice.kernel) == "newer.paged_attention"


# --- ops, and what conformance asks for ---------------------------------------------------------------------


@pytest.mark.usefixtures("level_2")
def test_a_newer_op_is_asked_of_newer_plugins_alone() -> None:
    assert "doubled" not in required(("llm",), 1)
    assert "doubled" in required(("llm",), 2)
    with pytest.raises(AttributeError, match="'doubled' is not bound"):
        bound().ops.doubled(1)
    with pytest.raises(TypeError, match="op doubled came with level 2, and the set says level 1"):
        _define(1, "doubled", "self, x")


@pytest.mark.usefixtures("level_2")
def test_conformance_asks_for_the_version_that_was_agreed_on(install: Callable[[], None]) -> None:
    install()
    only = ["ops/softcap", "ops/gated_activation", "ops/doubled", "hygiene/profiles are known", "hygiene/api version"]
    report = run("frozen", only=only)
    names = {result.name for result in report.results}
    assert report.passed, report.summary()
    assert {name.split("/")[1] for name in names} == {
        "softcap",
        "gated_activation",
        "profiles are known",
        "api version",
    }
    assert any("limit None" in name for name in names) and not any("limit 7.0" in name for name in names)


def test_a_plugin_is_asked_nothing_by_hooks_that_it_lacks(
    install: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zif.contract import hookspecs
    from zif.plugins import load

    def zif_later(options: Any) -> Any:
        """Come with level 2."""

    monkeypatch.setattr(hookspecs, "zif_later", hookspecs.hookspec(zif_later), raising=False)
    install()
    assert not load("frozen").implements("zif_later")


def test_a_member_that_is_added_with_a_body_is_there_in_older_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in (Backend, Runtime, Packer, Executables):
        monkeypatch.setattr(protocol, "later", lambda self: "the body in the protocol", raising=False)
    backend = frozen_level_1.zif_create_backend({}, None)
    for part in (backend, backend.runtime, backend.packer, backend.executables):
        assert part.later() == "the body in the protocol"


def test_fields_that_are_added_come_last() -> None:
    for kind in (AttentionSpec, RopeSpec, CacheGroup, LinearSpec, StepShape, Attention2):
        levels = [field.metadata.get("zif_level", 1) for field in fields(kind)]
        assert levels == sorted(levels)


# --- what a set says of its level ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "complaint"),
    [
        (None, "`level = 1` is this zif's"),
        ("1", "its level is '1', not a version"),
        (0, "its level is 0"),
        (True, "its level is True"),
        (7, "written for level 7, and this zif's is 1: upgrade zif"),
    ],
)
def test_a_set_with_kernels_states_a_level_that_there_is(level: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        _define(level, "softcap", "self, x, cap")


def test_kernels_that_are_inherited_keep_their_level() -> None:
    class Later(frozen_level_1.FrozenKernels):
        level = 1

        @kernel("add")
        def add(self, x: Any, residual: Any) -> Any: ...

    class Renamed(frozen_level_1.FrozenKernels):
        provider = "renamed"

    assert {kernel.level for kernel in Later().kernels()} == {1}
    assert {kernel.provider for kernel in Renamed().kernels()} == {"renamed"}


def _define(level: Any, op: str, parameters: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def method({parameters}): ...", scope)
    members = {"provider": "p", op: kernel(op)(scope["method"])}
    type("Kernels", (KernelSet,), members if level is None else members | {"level": level})


# --- a kernel that breaks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "complaint"),
    [
        (lambda _, request: request["sizes"], "`when` raised KeyError: .*no fact 'sizes'"),
        (lambda _, request: 1 / 0, "`when` raised ZeroDivisionError"),
        (lambda _, request: True, "`when` answered True, not None or a sentence"),
        (lambda _, request: " ", "`when` answered ' '"),
    ],
)
def test_a_when_that_breaks_is_named_with_its_distribution(when: Any, complaint: str) -> None:
    with pytest.raises(PluginError, match=complaint) as caught:
        _bind_one(kernel("rms_norm", when=when)(lambda self, x, weight, eps, offset=0.0: x))
    assert caught.value.distribution == "acme_kernels"
    assert "kernel acme.norm of acme_kernels" in str(caught.value)
    assert "(rms_norm has facts: size)" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda self, request, ops: 1 / 0, "`make` raised ZeroDivisionError: division by zero"),
        (lambda self, request, ops: None, "made None, which cannot be called"),
    ],
)
def test_a_make_that_breaks_is_named_with_its_distribution(make: Any, complaint: str) -> None:
    with pytest.raises(PluginError, match=f"acme.norm of acme_kernels, asked for rms_norm.*{complaint}"):
        _bind_one(kernel("rms_norm", makes=True)(make))


def _bind_one(method: Any) -> None:
    acme = type("Acme", (KernelSet,), {"provider": "acme", "level": 1, "__module__": "acme_kernels", "norm": method})
    bind([OpRequest.of("rms_norm", "float32", size=8)], [acme(), frozen_level_1.TorchReference()])


def test_a_kernel_is_not_asked_without_its_facts() -> None:
    with pytest.raises(AttributeError, match="'rms_norm' is not bound"):
        bound().ops.rms_norm(None, None, 1e-6)
    with pytest.raises(ValueError, match=r"rms_norm.*facts \['sizes'\] are not declared, \['size'\] are missing"):
        bound(OpRequest.of("rms_norm", "float32", sizes=8))
    with pytest.raises(ValueError, match="kind is one of silu, gelu_tanh, not 'tanh'"):
        bound(OpRequest.of("gated_activation", "float32", size=8, kind="tanh"))


def test_a_part_of_a_composite_must_be_served_only_where_the_composite_serves() -> None:
    class Whole(KernelSet):
        provider = "whole"
        level = 1

        @kernel("gated_linear", when=lambda _, r: None if r["format"] == "fused" else "reads fused weights")
        def gated_linear(self, x: Any, w: Any, kind: str, step: Any = None) -> Any: ...

    facts = {"key": "k", "in_features": 8, "out_features": 8, "bias": False, "kind": "silu"}
    request = OpRequest.of("gated_linear", "float32", format="fused", **facts)
    reference = frozen_level_1.TorchReference()
    assert {choice.request.op for choice in bind([request], [Whole(), reference]).choices} == {
        "gated_linear", "gated_activation",
    }  # fmt: skip
    with pytest.raises(KernelNotFound, match=r"no kernel serves linear.*format=fused"):
        bind([request], [reference])


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lays out the metadata of a distribution whose plugin is the frozen one."""

    def install() -> None:
        info = tmp_path / "zif_frozen-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zif-frozen\nVersion: 1.0\nSummary: frozen\n\n#\n")
        (info / "entry_points.txt").write_text("[zif.backends]\nfrozen = core.frozen_level_1\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install
