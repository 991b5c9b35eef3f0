"""From settings to a running engine: device, checkpoint, model, weights, kernels, cache, scheduler."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zif.contract.comm import Group
from zif.contract.errors import ZifError
from zif.engine.engine import Engine
from zif.engine.inputs import InputProvider, from_requests
from zif.engine.kernel_report import report_choices
from zif.engine.memory import cache_tokens, gibibytes, plan_pages, report_cache
from zif.engine.part import Part, check_ranks, load_part
from zif.engine.plan import cache_report, watchdog_timeout
from zif.engine.shapes import Limits
from zif.engine.verifying import Drafter
from zif.engine.warmup import warm_up as compile_steps
from zif.parallel.leader import Abandon, Followers
from zif.plugins import select
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.scheduler import Scheduler
from zif.weights import LoadFormat

if TYPE_CHECKING:
    from zif.contract.backend import Backend
    from zif.settings import Settings

logger = logging.getLogger(__name__)


def build_engine(
    settings: Settings,
    abandon: Abandon | None = None,
    *,
    progress: bool = True,
    backend: Backend | None = None,
    load_format: LoadFormat | None = None,
    warm_up: bool = True,
    drafter: Drafter | None = None,
    provider: InputProvider = from_requests,
    models: Mapping[str, str] | None = None,
) -> Engine:
    """Load ``settings.model`` on ``settings.device``.

    ``backend`` is used as it is where given (tests bring their own); otherwise ``--device`` decides.
    ``load_format`` is the settings' if not given. ``warm_up`` False leaves out what a backend wants
    compiled before the first request. ``drafter`` proposes tokens to be verified, ``provider`` the values of a model's
    further inputs. ``models`` are further architectures, each with the module that defines it, as plugins add them.
    ``abandon`` is told, from another thread, why an engine cannot go on that waits for ranks which are gone.
    With several ranks it starts their processes: :meth:`~zif.engine.engine.Engine.close` the engine.
    Raises the deliberate errors of :mod:`zif.contract.errors`.
    """
    selection = None
    if backend is None:
        selection = select(settings.device, settings.device_opt)
        logger.info("%s", selection.explain())
    followers = None
    try:
        group = None
        if selection is not None and settings.tp_size > 1:
            check_ranks(settings, selection)
            if selection.plugin.info.ranks == "processes":
                followers = Followers(settings, selection, abandon)
            group = followers.group if followers is not None else Group(0, selection.devices_of_ranks(settings.tp_size))
        if selection is not None:
            backend = selection.create_backend(group)
        assert backend is not None
        load_format = load_format or settings.load_format
        part = load_part(settings, backend, selection, load_format=load_format, progress=progress, models=models)
        return _engine(settings, part, followers, warm_up, drafter, provider)
    except BaseException as error:
        if followers is None:
            raise
        failure = followers.failure
        followers.stop(0.0)
        if backend is not None and isinstance(error, ZifError):  # of a broken device nothing is asked
            backend.communicator.close()
        followers.close()
        if failure is not None and isinstance(error, Exception):
            raise failure from error  # what went wrong here, went wrong for that reason
        raise


def _engine(
    settings: Settings,
    part: Part,
    followers: Followers | None,
    warm_up: bool,
    drafter: Drafter | None,
    provider: InputProvider,
) -> Engine:
    """The engine of a loaded model, the followers' parts of it included."""
    backend, model, plan = part.backend, part.model, part.plan
    report_choices(part.bound, backend.kernels()[-1].provider)
    num_pages: Sequence[int] = plan_pages(plan, part.groups, backend, part.formats)
    if followers is not None:
        num_pages = followers.agree(num_pages)
    scheduler = Scheduler(
        SchedulerConfig(
            context_length=plan.context_length,
            max_running_requests=plan.max_running_requests,
            chunked_prefill_size=plan.chunked_prefill_size,
            overlap=plan.overlap,
            radix_cache=not settings.disable_radix_cache,
            policy=settings.schedule_policy,
            max_queued=settings.max_queued_requests,
            conservativeness=settings.schedule_conservativeness,
            drafts=0 if drafter is None else drafter.most,
        ),
        part.groups,
        num_pages,
    )
    limits = Limits(
        tokens=scheduler.max_step_tokens,
        rows=plan.max_running_requests,
        pages=-(-scheduler.max_length // scheduler.memory.page_size),  # no sequence is longer than the cache
        page_size=scheduler.memory.page_size,
        drafts=0 if drafter is None else drafter.most,
    )
    seed = settings.random_seed if settings.random_seed is not None else secrets.randbits(63)
    if followers is not None:
        followers.begin(num_pages, limits)
    observers = () if followers is None else (followers,)
    runner = part.runner(num_pages, limits, seed=seed, observers=observers, drafter=drafter, provider=provider)
    logger.info("%s", report_cache(part.groups, num_pages, runner.cache.nbytes))
    if warm_up and backend.capabilities.warm_up:
        begin = time.monotonic()
        count = compile_steps(runner)
        held = gibibytes(sum(program.memory_bytes for program in runner.programs))
        logger.info("%d programs compiled in %.1f s, which hold %s", count, time.monotonic() - begin, held)
    facts: dict[str, Any] = {
        "model": served_name(settings),
        "device": backend.name,
        "vocab_size": model.vocab_size,
        **cache_report(plan, cache_tokens(part.groups, num_pages), runner.cache.nbytes),
        "context_length": scheduler.max_length,
        "watchdog_timeout": watchdog_timeout(settings, backend),
    }
    return Engine(scheduler, runner, facts)


def served_name(settings: Settings) -> str:
    """The name that clients see."""
    if settings.served_model_name is not None:
        return settings.served_model_name
    if settings.model is not None:
        return settings.model
    from zif import bundled

    return bundled.NAME
