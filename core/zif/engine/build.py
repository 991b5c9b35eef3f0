"""From settings to a running engine: device, checkpoint, model, weights, kernels, cache, scheduler."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from zif.contract.comm import Group
from zif.engine.choices import report_choices
from zif.engine.engine import Engine
from zif.engine.memory import plan_pages
from zif.engine.part import load_part
from zif.engine.plan import cache_report, watchdog_timeout
from zif.engine.staging import Limits
from zif.plugins import Selection, select
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.scheduler import Scheduler
from zif.weights import LoadFormat

if TYPE_CHECKING:
    from zif.contract.backend import Backend
    from zif.settings import Settings

logger = logging.getLogger(__name__)


def build_engine(
    settings: Settings,
    *,
    progress: bool = True,
    backend: Backend | None = None,
    load_format: LoadFormat | None = None,
    warm_up: bool = True,
) -> Engine:
    """Load ``settings.model`` on ``settings.device``.

    ``backend`` is used as it is where given (tests bring their own); otherwise ``--device`` decides.
    ``load_format`` is the settings' if not given. ``warm_up`` False leaves out what a backend wants
    compiled before the first request.
    Raises the deliberate errors of :mod:`zif.contract.errors`.
    """
    selection = select(settings.device, settings.device_opt) if backend is None else None
    if selection is not None:
        logger.info("%s", selection.explain())
        backend = selection.create_backend(mesh_group(selection, settings.tp_size))
    assert backend is not None
    load_format = load_format or settings.load_format
    part = load_part(settings, backend, selection, load_format=load_format, progress=progress)
    model, plan = part.model, part.plan
    report_choices(part.bound, backend.kernels()[-1].provider)
    num_pages = plan_pages(plan, model.cache_groups, backend)
    scheduler = Scheduler(
        SchedulerConfig(
            page_size=plan.page_size,
            context_length=plan.context_length,
            max_running_requests=plan.max_running_requests,
            chunked_prefill_size=plan.chunked_prefill_size,
            overlap=plan.overlap,
            radix_cache=not settings.disable_radix_cache,
            policy=settings.schedule_policy,
            max_queued=settings.max_queued_requests,
            conservativeness=settings.schedule_conservativeness,
        ),
        model.cache_groups,
        [num_pages] * len(model.cache_groups),
    )
    limits = Limits(
        tokens=scheduler.max_step_tokens,
        rows=plan.max_running_requests,
        pages=plan.pages_per_sequence,
        page_size=plan.page_size,
    )
    seed = settings.random_seed if settings.random_seed is not None else secrets.randbits(63)
    runner = part.runner(num_pages, limits, seed)
    if warm_up and backend.capabilities.warm_up:
        begin = time.monotonic()
        count = runner.warm_up()
        logger.info("%d programs compiled in %.1f s", count, time.monotonic() - begin)
    facts: dict[str, Any] = {
        "model": served_name(settings),
        "device": backend.name,
        "vocab_size": model.vocab_size,
        **cache_report(plan, num_pages, runner.cache.nbytes),
        "context_length": scheduler.max_length,
        "watchdog_timeout": watchdog_timeout(settings, backend),
    }
    return Engine(scheduler, runner, facts)


def mesh_group(selection: Selection, size: int) -> Group | None:
    """The group of a mesh of ``size`` devices, None for one device."""
    return Group(0, selection.devices_of_ranks(size)) if size > 1 else None


def served_name(settings: Settings) -> str:
    """The name that clients see."""
    if settings.served_model_name is not None:
        return settings.served_model_name
    if settings.model is not None:
        return settings.model
    from zif import bundled

    return bundled.NAME
