"""From settings to a running engine: device, checkpoint, model, weights, kernels, cache, scheduler."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

import zif_models
from zif.contract.bind import bind
from zif.contract.errors import InvalidSettings
from zif.engine.engine import Engine
from zif.engine.plan import cache_report, plan_engine, plan_pages, watchdog_timeout
from zif.engine.requests import model_requests
from zif.engine.runner import Runner
from zif.engine.staging import Limits
from zif.engine.store import CacheStore
from zif.plugins import Selection, extension_kernels, extension_models, select
from zif.scheduler.config import SchedulerConfig
from zif.scheduler.scheduler import Scheduler
from zif.weights import Checkpoint, LoadFormat, load_weights, open_checkpoint

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
    if settings.tp_size != 1:
        raise InvalidSettings(f"--tp-size {settings.tp_size}: tensor parallelism is not there yet; leave it at 1")
    selection = select(settings.device, settings.device_opt) if backend is None else None
    if selection is not None:
        logger.info("%s", selection.explain())
        backend = selection.create_backend()
    assert backend is not None
    checkpoint = open_checkpoint(model_path(settings), settings.revision)
    family = zif_models.resolve(checkpoint.config, further_models(selection))
    longest = family.build(checkpoint.config).context_length
    model = family.build(family_config(settings, checkpoint))
    plan = plan_engine(settings, longest, checkpoint_dtype(checkpoint.config), backend)
    load_format = load_format or settings.load_format
    weights = load_weights(model, checkpoint, backend.packer, plan.dtype, load_format=load_format, progress=progress)
    requests = model_requests(model, weights, plan.dtype, plan.page_size, plan.kv_cache_dtype)
    providers = extension_kernels(backend, selection.plugin.name if selection is not None else backend.name)
    bound = bind(requests, [*providers, *backend.kernels()], settings.kernel)
    num_pages = plan_pages(plan, model.cache_groups, backend)
    counts = {group.name: num_pages for group in model.cache_groups}
    cache = CacheStore(backend, model.cache_groups, plan.page_size, counts, plan.kv_cache_dtype)
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
        list(counts.values()),
    )
    limits = Limits(
        tokens=scheduler.max_step_tokens,
        rows=plan.max_running_requests,
        pages=plan.pages_per_sequence,
        page_size=plan.page_size,
    )
    seed = settings.random_seed if settings.random_seed is not None else secrets.randbits(63)
    runner = Runner(backend, model, weights, bound, cache, limits=limits, seed=seed)
    if warm_up and backend.capabilities.warm_up:
        begin = time.monotonic()
        count = runner.warm_up()
        logger.info("%d programs compiled in %.1f s", count, time.monotonic() - begin)
    facts: dict[str, Any] = {
        "model": served_name(settings),
        "device": backend.name,
        "vocab_size": model.vocab_size,
        **cache_report(plan, num_pages, cache.nbytes),
        "context_length": scheduler.max_length,
        "watchdog_timeout": watchdog_timeout(settings, backend),
    }
    return Engine(scheduler, runner, facts)


def family_config(settings: Settings, checkpoint: Checkpoint) -> dict[str, Any]:
    """``config.json``, and the context that is served where it is not the model's own."""
    if settings.context_length is None:
        return checkpoint.config
    return {**checkpoint.config, "served_context_length": settings.context_length}


def model_path(settings: Settings) -> str:
    """The checkpoint to serve: the bundled one where none is named."""
    if settings.model is not None:
        return settings.model
    from zif import bundled

    return str(bundled.path())


def served_name(settings: Settings) -> str:
    """The name that clients see."""
    if settings.served_model_name is not None:
        return settings.served_model_name
    if settings.model is not None:
        return settings.model
    from zif import bundled

    return bundled.NAME


def checkpoint_dtype(config: dict[str, Any]) -> str | None:
    """What ``config.json`` says that the weights are stored in, under its newer name or its older."""
    for part in (config, config.get("text_config") or {}):
        for name in ("dtype", "torch_dtype"):
            if part.get(name):
                return str(part[name])
    return None


def further_models(selection: Selection | None) -> dict[str, str]:
    """Architectures that plugins add; the device's own overrides of shared ones are reported and win."""
    if selection is None:
        return {}
    added = {**extension_models(selection.plugin.name), **selection.plugin.models()}
    for override in selection.plugin.model_overrides():
        logger.warning("%s runs its own %s: %s", selection.plugin.name, override.architecture, override.reason)
        added[override.architecture] = override.module
    return added
