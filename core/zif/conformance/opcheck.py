"""Every kernel that serves a request, on every case of its op, against the float64 reference."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from zif.conformance import paging
from zif.conformance.calls import Call, call_compiled, call_eager, call_strided
from zif.conformance.compare import difference, same_bits
from zif.conformance.paging import Paged
from zif.conformance.profiles import required
from zif.conformance.requests import FLOAT32_ARGUMENTS, actual_request, requests_around, result_dtype
from zif.conformance.results import Recorder
from zif.conformance.scale import BEYOND, Sizes, scale_cases
from zif.conformance.scope import EVERYTHING, Scope
from zif.conformance.weights import pack, put_dense
from zif.contract.arrays import tree_leaves, tree_map
from zif.contract.backend import Backend
from zif.contract.binding import bind, candidates, choose
from zif.contract.cache import CacheFormat, format_of
from zif.contract.errors import KernelNotFound
from zif.contract.kernels import Kernel, KernelSet
from zif.contract.ops import op_specs
from zif.contract.ops.draw import normal, numpy_dtype
from zif.contract.opspec import OpCase, OpRequest, OpSpec, Tolerance
from zif.contract.optable import Ops
from zif.contract.weights import LoopStack, PackedWeight

logger = logging.getLogger(__name__)
SECTION = "ops"
WRITERS = {"kv_write": "paged_attention", "rope_and_cache": "attention"}
"""Ops that have no cases of their own, and the op whose cases they are tested on."""


class NotStored(ValueError):
    """A cache format does not take the group of a case; says why."""


@dataclass(frozen=True)
class Offer:
    """What is checked: a backend, its kernels and its cache formats, those of extensions before them."""

    backend: Backend
    providers: Sequence[KernelSet]
    formats: Sequence[CacheFormat]

    def caches(self, dtype: str) -> tuple[str, ...]:
        """Formats besides the activations' that are tried with ``dtype``: all, with the one that is liked best."""
        own = self.backend.capabilities.dtypes
        others = dict.fromkeys(stored.name for stored in self.formats if stored.name not in own)
        return tuple(others) if dtype == own[0] else ()


def check_ops(
    offer: Offer, profiles: tuple[str, ...], recorder: Recorder, level: int, scope: Scope = EVERYTHING
) -> None:
    """Record a result for each op x dtype x case x kernel x way of calling it, of what ``level`` asks for."""
    names = required(profiles, level)
    if not names:
        recorder.add(SECTION, "all", "", "skip", "the plugin claims no profile")
    for name in names:
        if recorder.wants(SECTION, name):
            for dtype in scope.dtypes(offer.backend.capabilities.dtypes):
                _check_op(offer, op_specs()[name], dtype, recorder, level, scope)


def _check_op(offer: Offer, spec: OpSpec, dtype: str, recorder: Recorder, level: int, scope: Scope) -> None:
    seed, caches = scope.seed, () if scope.quick else offer.caches(dtype)
    for case in cases_of(spec, dtype, seed, caches, scope.sizes):
        if spec.newer(case.request, level) is not None:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{spec.name} {dtype} {case.label}".encode())])
        for form in _weight_forms(offer.backend, case):
            label = f"{dtype}/{case.label}" + ("" if form == "packed" else ", dense")
            _check_case(spec, partial(Subject.make, offer, spec, case, dtype, form, rng), label, recorder)


def cases_of(
    spec: OpSpec, dtype: str, seed: int, caches: Sequence[str] = (), scales: Sequence[Sizes] = (BEYOND,)
) -> Iterator[OpCase]:
    """The op's own cases, or, for ops that only write, those of the op that reads what they wrote.

    ``caches``: names of cache formats with which each case that has a cache comes once more. ``scales``: of further
    cases, which come without.
    """
    source = spec if spec.cases is not None else op_specs()[WRITERS.get(spec.name, "absorbed_attention")]
    assert source.cases is not None
    for case in (case for sizes in scales for case in scale_cases(source.name, dtype, sizes, seed)):
        yield replace(case, label=f"scale: {case.label}", request=replace(case.request, op=spec.name))
    for case in source.cases(np.random.default_rng(seed), dtype):
        yield case if source is spec else replace(case, request=replace(case.request, op=spec.name))
        if "cache" in case.arguments:
            for name in caches:
                request = replace(case.request, op=spec.name).but(cache_format=name)
                yield replace(case, label=f"{case.label}, {name} cache", request=request)


@dataclass(frozen=True)
class Subject:
    """One case, prepared for one backend: its kernels and its arguments.

    ``ops``, bound around it, and the expected results are made when they are asked for: making a kernel may compile it.
    """

    offer: Offer
    backend: Backend
    spec: OpSpec
    request: OpRequest
    dtype: str
    kernels: Sequence[Kernel]
    refused: Mapping[str, str]
    arguments: Mapping[str, Any]
    paged: Paged | None
    stored: CacheFormat | None
    host: Mapping[str, Any]
    rows: int | None
    form: str

    @classmethod
    def make(
        cls, offer: Offer, spec: OpSpec, case: OpCase, dtype: str, form: str, rng: np.random.Generator, *, padded: bool
    ) -> Subject:
        """Raises KernelNotFound if the backend has no kernel for the case, NotStored if it has no cache for it."""
        backend = offer.backend
        arguments, paged, stored = dict(case.arguments), None, None
        if "cache" in arguments:
            stored, page_size = _stored(offer, case)
            arguments, paged = _relaid(spec, arguments, dtype, page_size, rng, padded)
        host = arguments
        arguments = {
            name: _weights(backend, case.request, value, form) if isinstance(value, PackedWeight) else value
            for name, value in arguments.items()
        }
        request = actual_request(case.request, arguments)
        if paged is not None and stored is not None:
            request = request.but(page_size=paged.page_size, cache_layout=stored.layout)
        offered = candidates(offer.providers)
        choose(request, offered)  # raises where there is none
        answers = {kernel: kernel.supports(request) for kernel in offered if kernel.op == spec.name}
        rows = int(np.asarray(host["step"].num_tokens)[0]) if host.get("step") is not None else None
        return cls(
            offer=offer,
            backend=backend,
            spec=spec,
            request=request,
            dtype=dtype,
            kernels=[kernel for kernel, refusal in answers.items() if refusal is None],
            refused={str(kernel): refusal for kernel, refusal in answers.items() if refusal is not None},
            arguments=arguments,
            paged=paged,
            stored=stored,
            host=host,
            rows=rows,
            form=form,
        )

    def plain(self) -> Subject:
        """The same with weights as a checkpoint has them."""
        arguments = {
            name: put_dense(self.backend, value, self.dtype)
            if isinstance(value, PackedWeight)
            else self.arguments[name]
            for name, value in self.host.items()
        }
        return replace(self, arguments=arguments, request=actual_request(self.request, arguments), form="dense")

    @cached_property
    def ops(self) -> Ops:
        """What the case is filled and read back through: the framework reference's kernels, where they serve it.

        So a kernel is not blamed for what another wrote. Raises KernelNotFound if there is none.
        """
        requests = requests_around(self.request, self.arguments)
        return bind(requests, self.offer.providers, _trusted(requests, self.offer.providers)).ops

    @cached_property
    def expected(self) -> Any:
        """What the reference gives."""
        return _expected(self.spec, self.host, self.paged, self.stored if self.lossy else None)

    @property
    def lossy(self) -> bool:
        """Whether its cache is stored otherwise than in the activations' dtype."""
        return self.stored is not None and self.stored.name != self.dtype

    def cache(self) -> Any:
        """A fresh cache of the backend's own, filled through its own kernel."""
        if self.paged is None or self.stored is None:
            return None
        empty = paging.empty_cache(self.backend, self.paged, self.stored)
        return paging.fill(self.backend, self.ops, self.paged, empty, self.dtype)

    def call(self, kernel: Kernel) -> Call:
        """One kernel's call of the case."""
        arguments = {name: self._typed(name, value) for name, value in self.arguments.items() if name != "cache"}
        fn = kernel.make(self.request, self.ops)
        return Call(self.backend, f"{self.spec.name}-{kernel.name}", fn, arguments, self.cache, self._result_specs())

    def _typed(self, name: str, value: Any) -> Any:
        """Host arrays in the dtype that the op takes them in; what is packed already stays."""
        if isinstance(value, PackedWeight) or callable(value):
            return value
        dtype = numpy_dtype("float32" if name in FLOAT32_ARGUMENTS else self.dtype)

        def typed(leaf: Any) -> Any:
            return leaf.astype(dtype) if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 else leaf

        if isinstance(value, LoopStack):
            layers = [tree_map(lambda leaf: self.backend.runtime.put(typed(leaf)), layer) for layer in value.layers]
            return self.backend.packer.stack(layers)
        return tree_map(typed, value)

    def _result_specs(self) -> list[tuple[tuple[int, ...], str]]:
        floats = result_dtype(self.spec, self.dtype)
        return [
            (array.shape, floats if array.dtype.kind == "f" else array.dtype.name) for array in self.expected_arrays()
        ]

    def expected_arrays(self) -> list[np.ndarray[Any, Any]]:
        """The reference's results, the cache aside."""
        return list(tree_leaves(_without_cache(self.spec, self.expected)))

    def tolerance(self, spec: OpSpec | None = None) -> Tolerance:
        """The op's, or another's that reads what it wrote; KeyError for a dtype that it has none for."""
        tolerances = (spec or self.spec).tolerances
        if not tolerances:
            return Tolerance(0.0, 0.0)
        own = tolerances[self.dtype]
        computed = _writes(self.spec) and self.spec.name != "kv_write"
        more = self.stored.error if computed and self.stored is not None else 0.0
        return Tolerance(own.rtol, own.atol + more)


def _check_case(spec: OpSpec, make: Callable[..., Subject], label: str, recorder: Recorder) -> None:
    """Eagerly as the case is drawn, also with inputs that are views; compiled, with padding and on other pages."""
    for way, run, padded in WAYS:
        try:
            subject = make(padded=padded)
            _ = subject.ops
        except KernelNotFound as error:
            recorder.add(SECTION, spec.name, label, "fail", " ".join(str(error).split()))
            return
        except NotStored as error:
            recorder.add(SECTION, spec.name, label, "skip", str(error))
            return
        if run is call_strided and (subject.lossy or not subject.call(subject.kernels[0]).strided):
            continue
        for kernel in subject.kernels:
            _check_kernel(subject, kernel, f"{label}/{kernel}/{way}", run, recorder)


Run = Callable[[Call], tuple[list[np.ndarray[Any, Any]], Any]]
WAYS: Sequence[tuple[str, Run, bool]] = (
    ("eager", call_eager, False),
    ("strided", call_strided, False),
    ("compiled", call_compiled, True),
)


def _check_kernel(subject: Subject, kernel: Kernel, case: str, run: Run, recorder: Recorder) -> None:
    op, bits = subject.spec.name, f"{case}, same bits"
    if not (recorder.asks(SECTION, op, case) or recorder.asks(SECTION, op, bits)):
        return
    trial = Trial(subject, kernel, run)
    if not recorder.check(SECTION, op, case, trial.compare, blame=trial.suspect):
        return
    if not kernel.deterministic:
        recorder.add(SECTION, op, bits, "skip", f"{kernel} says it is not deterministic")
    else:
        recorder.check(SECTION, op, bits, trial.repeat, blame=trial.suspect)


class Trial:
    """One kernel on one case, called in one way: once against the reference, once more against itself."""

    def __init__(self, subject: Subject, kernel: Kernel, run: Run) -> None:
        self._subject = subject
        self._kernel = kernel
        self._run = run
        self._call: Call | None = None
        self._first: list[np.ndarray[Any, Any]] = []

    def compare(self) -> str | None:
        """Against the reference."""
        subject = self._subject
        self._call = subject.call(self._kernel)
        results, cache = self._run(self._call)
        self._first = [result.copy() for result in results]
        wanted = subject.expected_arrays()
        if len(results) != len(wanted):
            return f"{len(results)} results, expected {len(wanted)}"
        floats = result_dtype(subject.spec, subject.dtype)
        for index, (got, expected) in enumerate(zip(results, wanted, strict=True)):
            dtype = floats if expected.dtype.kind == "f" else expected.dtype.name
            if got.dtype.name != dtype:
                return f"result {index} is {got.dtype.name}, expected {dtype}"
            if fault := difference(_real(subject, got), _real(subject, expected), subject.tolerance()):
                return f"result {index}: {fault}"
        return _read_back(subject, cache) if _writes(subject.spec) else None

    def suspect(self) -> str:
        """The kernel; or the packer, if the kernel is right about the same weights as a checkpoint has them."""
        packed = any(isinstance(value, PackedWeight) for value in self._subject.arguments.values())
        if packed and self._subject.form == "packed":
            try:
                plain = self._subject.plain()
                if (
                    self._kernel.supports(plain.request) is None
                    and Trial(plain, self._kernel, self._run).compare() is None
                ):
                    return "packer"
            except Exception as error:
                logger.debug("on plain weights: %r", error)
        return str(self._kernel)

    def repeat(self) -> str | None:
        """Against what it gave first."""
        if self._call is None:
            self.compare()
        assert self._call is not None
        second, _ = self._run(self._call)
        for one, other in zip(self._first, second, strict=True):
            if not same_bits(_real(self._subject, one), _real(self._subject, other)):
                return "two calls with the same arguments differ; a kernel that may do so says deterministic=False"
        return None


def _read_back(subject: Subject, cache: Any) -> str | None:
    """Attention over all that is cached now, the bystander's too, in every layer."""
    paged = subject.paged
    assert paged is not None
    written = _cache_of(subject.spec, subject.expected)
    rng = np.random.default_rng(len(paged.tables))
    reader = op_specs()["paged_attention" if "v" in paged.history else "absorbed_attention"]
    lengths = paged.lengths
    for layer in range(paging.LAYERS):
        rows = [row for row, length in enumerate(lengths) if length]
        last = [lengths[row] for row in rows]
        probe = paging.ragged_step(paged.spec.group, paged.tables[rows], [length - 1 for length in last], last)
        q = normal(rng, (len(rows), paged.spec.q_heads, paged.spec.head_dim), subject.dtype)
        expected = reader.reference(q, written, layer, probe, paged.spec)
        typed, step = q.astype(numpy_dtype(subject.dtype)), paging.to_device(subject.backend, probe)
        got = getattr(subject.ops, reader.name)(subject.backend.runtime.put(typed), cache, layer, step, paged.spec)
        host = subject.backend.runtime.fetch({"got": got}).wait()["got"]
        if fault := difference(host, expected, subject.tolerance(reader)):
            return f"layer {layer} of the cache, read back (row {len(rows) - 1} was not in the step): {fault}"
    return None


def _stored(offer: Offer, case: OpCase) -> tuple[CacheFormat, int]:
    """The format that a case's cache is stored in, and the tokens of its pages. Raises NotStored."""
    attention, name = case.arguments["spec"], case.request["cache_format"]
    plain = case.arguments["cache"][attention.group]
    group = paging.group_of(attention, latent="v" not in plain)
    base = paging.page_size_for(offer.backend, plain["k"].shape[2])
    found, why = format_of(offer.formats, name, group, base)
    if found is None and name == case.request.dtype:
        raise KernelNotFound(f"a cache in the activations' own dtype {name} is not stored: {why}")
    if found is None:
        raise NotStored(why)
    return found, found.page_size(group, base)


def _relaid(
    spec: OpSpec, arguments: dict[str, Any], dtype: str, page_size: int, rng: np.random.Generator, padded: bool
) -> tuple[dict[str, Any], Paged]:
    """The arguments on new pages; arrays that have a row a token get rows for the padding, which hold NaN."""
    old: Any = arguments["step"]
    paged = paging.lay_out(arguments, page_size, rng, writes=_writes(spec), padded=padded)
    cache = paged.plain()
    if spec.name in WRITERS or spec.name == "latent_write":
        arguments = _writer_arguments(spec, arguments, dtype, rng)
    extra = paged.step.shape.tokens - old.shape.tokens

    def longer(name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or name in ("q_norm", "k_norm"):
            return value
        fill = np.zeros if name == "angles" else partial(np.full, fill_value=np.nan)
        return np.concatenate([value, fill((extra, *value.shape[1:]))]) if extra else value

    relaid = {name: longer(name, value) for name, value in arguments.items()}
    return {**relaid, "cache": cache, "step": paged.step}, paged


def _writer_arguments(spec: OpSpec, arguments: dict[str, Any], dtype: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of an op that writes, from those of the one that reads."""
    attention, tokens = arguments["spec"], arguments["step"].shape.tokens
    drawn = {
        "k": normal(rng, (tokens, attention.kv_heads, attention.head_dim), dtype),
        "v": normal(rng, (tokens, attention.kv_heads, attention.v_head_dim), dtype),
        "latent": normal(rng, (tokens, attention.head_dim), dtype),
    }
    merged = drawn | arguments
    return {name: merged[name] for name in spec.parameters if name in merged}


def _writes(spec: OpSpec) -> bool:
    """Whether the op puts the step's tokens into the cache."""
    return bool({"k", "latent"} & set(spec.parameters)) and "cache" in spec.parameters


def _expected(spec: OpSpec, arguments: Mapping[str, Any], paged: Paged | None, stored: CacheFormat | None) -> Any:
    """The reference's results; ``stored``: what it reads is what comes back of a cache in that format."""
    with np.errstate(all="ignore"):  # rows of padding hold NaN
        if paged is None or stored is None:
            return spec.reference(**arguments)
        if not _writes(spec):
            return spec.reference(**{**arguments, "cache": paged.read_back(arguments["cache"], stored)})
        if spec.name != "attention":
            result = spec.reference(**arguments)
            cache = paged.read_back(_cache_of(spec, result), stored)
            return (result[0], cache) if isinstance(result, tuple) else cache
        q, cache = op_specs()["rope_and_cache"].reference(**arguments)
        cache = paged.read_back(cache, stored)
        step, attention = arguments["step"], arguments["spec"]
        return op_specs()["paged_attention"].reference(q, cache, arguments["layer"], step, attention), cache


def _without_cache(spec: OpSpec, result: Any) -> Any:
    if not _writes(spec):
        return result
    return result[0] if isinstance(result, tuple) else None


def _cache_of(spec: OpSpec, result: Any) -> Any:
    return result[1] if isinstance(result, tuple) else result


def _trusted(requests: Sequence[OpRequest], providers: Sequence[KernelSet]) -> dict[str, str]:
    """Pins of the framework reference, for ops of which it serves all ``requests``."""
    wanted: dict[str, list[OpRequest]] = {}
    for request in requests:
        wanted.setdefault(request.op, []).append(request)
    return {
        kernel.op: str(kernel)
        for kernel in providers[-1].kernels()
        if kernel.op in wanted and all(kernel.supports(request) is None for request in wanted[kernel.op])
    }


def _real(subject: Subject, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Without the rows of padding tokens, which are undefined."""
    return array if subject.rows is None else array[: subject.rows]


def _weight_forms(backend: Backend, case: OpCase) -> list[str]:
    """``packed``, and ``dense`` where the packer makes another format."""
    weights = [value for value in case.arguments.values() if isinstance(value, PackedWeight)]
    if all(pack(backend, case.request, weight).format == "dense" for weight in weights):
        return ["packed"]
    return ["packed", "dense"]


def _weights(backend: Backend, request: OpRequest, weight: PackedWeight, form: str) -> PackedWeight:
    return pack(backend, request, weight) if form == "packed" else put_dense(backend, weight, request.dtype)
