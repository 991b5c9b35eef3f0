"""How a request wants its tokens drawn: each parameter is declared once, in :class:`SamplingParams`.

What follows from a declaration: its check, in Python and over HTTP; the names by which APIs take it; what it asks of
the sampler; its field of the request table; the page of parameters in the docs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import numpy as np

from zif.contract.errors import InvalidRequest
from zif.sampling.kinds import Biases, Flag, Kind, Number, Texts, TokenIds, Whole

T = TypeVar("T")
Api = Literal["openai", "sglang"]
"""Whose words a request is in: those of ``/v1/chat/completions`` and ``/v1/completions``, or of ``/generate``."""

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_STOP_TOKEN_IDS = 56
MAX_ALLOWED = 1024
MIN_TEMPERATURE = 1e-5
RANDOM, FILTERED, ADJUSTED, SCORED = 1, 2, 4, 8
"""What a sampler has to do. RANDOM and FILTERED read the request table, ADJUSTED the adjustments beside it."""


@dataclass(frozen=True)
class Row:
    """A field of the request table: a number, or ``width`` of them, that ``make`` has of the parameter's value."""

    name: str
    dtype: Literal["int32", "float32"]
    make: Callable[[Any], Any] = lambda value: value
    width: int | None = None


@dataclass(frozen=True)
class Parameter:
    """A declared parameter.

    ``names`` has its name in each API that takes it. Any value but ``idle`` asks for ``needs``; a row of the
    request table that nobody has asked anything of holds what ``idle`` makes.
    """

    name: str
    kind: Kind
    doc: str
    default: Any
    idle: Any
    needs: int
    rows: tuple[Row, ...]
    names: Mapping[Api, str]

    def check(self, value: Any, name: str | None = None) -> Any:
        """Return ``value`` as it is kept; None stays where it is the default.

        Raises :class:`InvalidRequest`, which calls the parameter ``name``, if that is given.
        """
        return None if value is None and self.default is None else self.kind.check(name or self.name, value)


def parameter(
    default: T,
    kind: Kind,
    doc: str,
    *,
    needs: int = 0,
    idle: Any = dataclasses.MISSING,
    rows: tuple[Row, ...] = (),
    apis: tuple[Api, ...] = ("openai", "sglang"),
    sglang: str | None = None,
) -> T:
    """Declare a field of :class:`SamplingParams`; see :class:`Parameter`. ``sglang`` is another name there."""
    facts = {"kind": kind, "doc": doc, "needs": needs, "rows": rows, "apis": apis, "sglang": sglang}
    facts["idle"] = default if idle is dataclasses.MISSING else idle
    field: Any = (
        dataclasses.field(default_factory=dict, metadata=facts)
        if isinstance(default, dict)
        else dataclasses.field(default=default, metadata=facts)
    )
    return cast("T", field)


def _padded(values: Any, dtype: str, width: int, behind: float = 0) -> np.ndarray[Any, Any]:
    row = np.full(width, behind, dtype)
    row[: len(values)] = list(values)
    return row


_BIASES = (
    Row("bias_ids", "int32", lambda bias: _padded(bias, "int32", MAX_LOGIT_BIAS), MAX_LOGIT_BIAS),
    Row("bias_values", "float32", lambda bias: _padded(bias.values(), "float32", MAX_LOGIT_BIAS), MAX_LOGIT_BIAS),
)
_ALLOWED = (
    Row("limited", "int32", bool),
    Row("allowed_ids", "int32", lambda ids: _padded(ids, "int32", MAX_ALLOWED, *ids[:1]), MAX_ALLOWED),
)


@dataclass(slots=True, frozen=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request; validated when made.

    Raises :class:`InvalidRequest` (a ValueError) that names the field.
    """

    max_tokens: int | None = parameter(
        None, Whole(0, 2**63 - 1), "Tokens of the answer at most; null: to the end of the context.",
        sglang="max_new_tokens",
    )  # fmt: skip
    min_tokens: int = parameter(
        0, Whole(0, 2**31 - 1), "Tokens before an end-of-sequence or stop token, or a stop string, may end the answer.",
        needs=ADJUSTED, sglang="min_new_tokens",
    )  # fmt: skip
    temperature: float = parameter(
        1.0, Number(0.0, 100.0), "Logits are divided by it; 0, or less than 1e-5: the most likely token is taken.",
        needs=RANDOM, idle=0.0, rows=(Row("temperature", "float32"),),
    )  # fmt: skip
    top_k: int = parameter(
        0, Whole(0, 2**31 - 1, also=-1), "Draws from the k most likely tokens; 0 or -1: from all.",
        needs=FILTERED, rows=(Row("top_k", "int32"),),
    )  # fmt: skip
    top_p: float = parameter(
        1.0, Number(0.0, 1.0, open_low=True), "Draws from the most likely tokens that have this probability together.",
        needs=FILTERED, rows=(Row("top_p", "float32"),),
    )  # fmt: skip
    min_p: float = parameter(
        0.0, Number(0.0, 1.0), "Leaves out tokens less likely than this share of the most likely one.",
        needs=FILTERED, rows=(Row("min_p", "float32"),),
    )  # fmt: skip
    repetition_penalty: float = parameter(
        1.0, Number(0.0, 100.0, open_low=True), "Over 1: tokens of prompt and answer become less likely.",
        needs=ADJUSTED, rows=(Row("repetition", "float32"),),
    )  # fmt: skip
    presence_penalty: float = parameter(
        0.0, Number(-2.0, 2.0), "Taken off the logits of tokens of the answer.",
        needs=ADJUSTED, rows=(Row("presence", "float32"),),
    )  # fmt: skip
    frequency_penalty: float = parameter(
        0.0, Number(-2.0, 2.0), "Taken off the logits of tokens of the answer, once for each time they came.",
        needs=ADJUSTED, rows=(Row("frequency", "float32"),),
    )  # fmt: skip
    logit_bias: Mapping[int, float] = parameter(
        cast("Mapping[int, float]", {}), Biases(MAX_LOGIT_BIAS, -100.0, 100.0), "Added to the logits of token ids.",
        needs=ADJUSTED, rows=_BIASES,
    )  # fmt: skip
    allowed_token_ids: tuple[int, ...] = parameter(
        (), TokenIds(MAX_ALLOWED), "Draws from these tokens alone; none: from all.",
        needs=ADJUSTED, rows=_ALLOWED, apis=("openai",),
    )  # fmt: skip
    seed: int | None = parameter(
        None, Whole(-(2**63), 2**64 - 1), "The same seed draws the same tokens; null: the engine chooses one.",
        sglang="sampling_seed",
    )  # fmt: skip
    stop: tuple[str, ...] = parameter((), Texts(16, longest=1024), "The answer ends before any of these texts.")
    stop_token_ids: tuple[int, ...] = parameter((), TokenIds(MAX_STOP_TOKEN_IDS), "The answer ends at these tokens.")
    ignore_eos: bool = parameter(False, Flag(), "Goes on after an end-of-sequence token.")
    include_stop_str_in_output: bool = parameter(
        False, Flag(), "The text or token that ended the answer stays in it.", sglang="no_stop_trim"
    )
    skip_special_tokens: bool = parameter(True, Flag(), "Leaves special tokens out of the text.")
    logprobs: int | None = parameter(
        None, Whole(0, MAX_LOGPROBS), "Alternatives each token is reported with; 0: the token's own; None: off.",
        needs=SCORED, apis=(),
    )  # fmt: skip
    prompt_logprobs: int | None = parameter(
        None, Whole(0, MAX_LOGPROBS), "As ``logprobs``, for the tokens of the prompt; not in streams.", apis=("openai",)
    )
    n: int = parameter(1, Whole(1, 128), "Answers to the prompt.")
    needs: int = dataclasses.field(init=False, repr=False, compare=False, default=0)
    """What its sampler has to do: RANDOM, FILTERED, ADJUSTED, SCORED or-ed, as a batch's requests' are in turn."""

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name, declared in PARAMETERS.items():
            settle(name, declared.check(getattr(self, name)))
        if self.temperature < MIN_TEMPERATURE:
            settle("temperature", 0.0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(f"min_tokens ({self.min_tokens}) is over max_tokens ({self.max_tokens})", "min_tokens")
        needs = 0
        for name, declared in PARAMETERS.items():
            if declared.needs and getattr(self, name) != declared.idle:
                needs |= declared.needs
        settle("needs", needs & ~FILTERED if self.greedy else needs)

    def narrowed(self, **changes: int | None) -> SamplingParams:
        """Return a copy with fields that were valid before, and are now smaller: they are not checked again."""
        twin = object.__new__(SamplingParams)
        for name in SamplingParams.__slots__:
            object.__setattr__(twin, name, changes[name] if name in changes else getattr(self, name))
        return twin

    @property
    def greedy(self) -> bool:
        """True where the most likely token is taken, with no random bits."""
        return self.temperature == 0.0

    @property
    def adjusted(self) -> bool:
        """True where the tokens so far, ``logit_bias`` or ``min_tokens`` change the logits."""
        return bool(self.needs & ADJUSTED)

    @property
    def filtered(self) -> bool:
        """True where top-k, top-p or min-p leave tokens out."""
        return bool(self.needs & FILTERED)


def _declared(field: dataclasses.Field[Any]) -> Parameter:
    facts = dict(field.metadata)
    other: dict[Api, str | None] = {"sglang": facts.pop("sglang")}
    names = {api: other.get(api) or field.name for api in facts.pop("apis")}
    default = {} if field.default is dataclasses.MISSING else field.default
    return Parameter(name=field.name, default=default, names=names, **facts)


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {field.name: _declared(field) for field in dataclasses.fields(SamplingParams) if field.init}
)
"""Every parameter by its name, in the order of declaration."""
OF_TOKEN_IDS = tuple(name for name, declared in PARAMETERS.items() if isinstance(declared.kind, TokenIds | Biases))
"""Those that name token ids, which only a model can check."""
