"""Settings left open, decided at start: dtype, page size, how large a step may be."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from zif.contract.backend import Backend
from zif.contract.errors import InvalidSettings
from zif.settings import Settings

logger = logging.getLogger(__name__)

WATCHDOG_SECONDS = 300.0
"""As SGLang's: longer than any step, and than compiling the kernels of one."""
HOST_WATCHDOG_SECONDS = 900.0
"""Where the host itself computes: a prefill of 2048 tokens of a 70B model takes two cores less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """Engine settings with nothing left open; a backend may have changed them (``resolve_config``).

    ``kv_cache_dtype`` is the name of a cache format; ``page_size`` that of the smallest pages.
    """

    dtype: str
    kv_cache_dtype: str
    page_size: int
    context_length: int
    max_running_requests: int
    chunked_prefill_size: int
    mem_fraction_static: float
    cache_share: float
    max_total_tokens: int | None
    overlap: bool


def plan_engine(
    settings: Settings,
    longest: int,
    checkpoint_dtype: str | None,
    backend: Backend,
    unsafe: Mapping[str, str] = MappingProxyType({}),
) -> EnginePlan:
    """Decide what ``settings`` leave open; ``longest`` is the context that the model was made for.

    ``unsafe`` are the dtypes that its activations do not bear, with the reason
    (:func:`zif.contract.model.unsafe_dtypes`). Raises InvalidSettings for what the model or the backend cannot do.
    """
    capabilities = backend.capabilities
    dtype = _dtype(settings.dtype, checkpoint_dtype, capabilities.dtypes, backend.name, unsafe)
    context_length = settings.context_length or longest
    if context_length > longest:
        raise InvalidSettings(f"--context-length {context_length} is over what the model was made for, {longest}")
    sizes = capabilities.page_sizes
    page_size = settings.page_size or (sizes[0] if sizes else 16)
    if sizes and page_size not in sizes:
        raise InvalidSettings(f"--page-size {page_size}: {backend.name} takes {', '.join(map(str, sizes))}")
    chunk = settings.chunked_prefill_size or capabilities.chunked_prefill_size
    chunk = context_length if chunk == -1 else chunk
    plan = EnginePlan(
        dtype=dtype,
        kv_cache_dtype=settings.kv_cache_dtype if settings.kv_cache_dtype != "auto" else dtype,
        page_size=page_size,
        context_length=context_length,
        max_running_requests=settings.max_running_requests or capabilities.max_running_requests,
        chunked_prefill_size=chunk,
        mem_fraction_static=settings.mem_fraction_static or capabilities.mem_fraction_static,
        cache_share=capabilities.cache_share if settings.mem_fraction_static is None else 1.0,
        max_total_tokens=settings.max_total_tokens,
        overlap=capabilities.asynchronous and not settings.disable_overlap_schedule,
    )
    current = {name: getattr(plan, name) for name in EnginePlan.__dataclass_fields__}
    for change in backend.resolve_config(current):
        if change.field not in current:
            raise InvalidSettings(f"{backend.name} wants to change {change.field!r}, which no setting is called")
        logger.info("%s: %s = %s: %s", backend.name, change.field, change.value, change.reason)
        plan = replace(plan, **{change.field: change.value})
    return plan


def watchdog_timeout(settings: Settings, backend: Backend) -> float:
    """Seconds after which a step that has not ended counts as hung; 0: never."""
    if settings.watchdog_timeout is not None:
        return settings.watchdog_timeout
    return WATCHDOG_SECONDS if backend.capabilities.asynchronous else HOST_WATCHDOG_SECONDS


def _dtype(asked: str, checkpoint: str | None, served: Sequence[str], backend: str, unsafe: Mapping[str, str]) -> str:
    safe = [dtype for dtype in served if dtype not in unsafe]
    if asked != "auto":
        if asked not in served:
            raise InvalidSettings(f"--dtype {asked}: {backend} computes in {', '.join(served)}")
        if asked in unsafe:
            raise InvalidSettings(f"--dtype {asked}: {unsafe[asked]}; take {' or '.join(safe)}")
        return asked
    if not safe:
        raise InvalidSettings(f"{backend} computes in {served[0]} alone: {unsafe[served[0]]}")
    if checkpoint in safe:
        return str(checkpoint)
    if checkpoint == "float16" and "bfloat16" in safe:  # as wide; keeps float16's range and more
        return "bfloat16"
    return safe[0]


def cache_report(plan: EnginePlan, tokens: int, nbytes: int) -> dict[str, Any]:
    """What ``stats`` says of the plan."""
    return {
        "dtype": plan.dtype,
        "kv_cache_dtype": plan.kv_cache_dtype,
        "page_size": plan.page_size,
        "max_running_requests": plan.max_running_requests,
        "chunked_prefill_size": plan.chunked_prefill_size,
        "overlap": plan.overlap,
        "cache_tokens": tokens,
        "cache_bytes": nbytes,
    }
