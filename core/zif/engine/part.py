"""What one process holds of a model on its device: weights, bound ops and, from them, a runner.

It is all of the model, or a rank's part of it where several share its layers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zif_models
from zif.contract.arrays import Tree
from zif.contract.binding import Bound
from zif.contract.errors import InvalidSettings, OutOfMemory
from zif.contract.model import unsafe_dtypes
from zif.engine.collectives import bind_ranks
from zif.engine.inputs import InputProvider, from_requests
from zif.engine.launch import Observer
from zif.engine.memory import weights_do_not_fit
from zif.engine.plan import EnginePlan, plan_engine
from zif.engine.requests import model_requests
from zif.engine.runner import Runner
from zif.engine.shapes import Limits
from zif.engine.store import CacheStore, StoredGroup, stored_groups
from zif.engine.verifying import Drafter
from zif.plugins import Selection, extension_formats, extension_kernels, extension_models
from zif.weights import Checkpoint, LoadFormat, Shard, load_weights, open_checkpoint, weight_bytes, with_its_head

if TYPE_CHECKING:
    from zif.contract.backend import Backend
    from zif.contract.cache import CacheFormat
    from zif.contract.model import Model
    from zif.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """``model``, ``groups`` and ``weights`` are the rank's, ``plan`` is the same on all ranks.

    ``formats`` are all that its cache could be stored in.
    """

    backend: Backend
    model: Model
    plan: EnginePlan
    groups: tuple[StoredGroup, ...]
    formats: Sequence[CacheFormat]
    weights: Tree
    bound: Bound

    def runner(
        self,
        num_pages: Sequence[int],
        limits: Limits,
        *,
        seed: int,
        observers: Sequence[Observer] = (),
        drafter: Drafter | None = None,
        provider: InputProvider = from_requests,
    ) -> Runner:
        """A runner with a cache of ``num_pages`` pages of each group."""
        cache = CacheStore(self.backend, self.groups, num_pages)
        return Runner(
            self.backend, self.model, self.weights, self.bound, cache,
            limits=limits, seed=seed, observers=observers, drafter=drafter, provider=provider,
        )  # fmt: skip


def check_ranks(settings: Settings, selection: Selection) -> None:
    """Raise, before anything is loaded, what keeps ``--tp-size`` from being served."""
    selection.devices_of_ranks(settings.tp_size)
    checkpoint = open_checkpoint(model_path(settings), settings.revision, tensors=False)
    family = zif_models.resolve(checkpoint.config, further_models(selection))
    family.build(family_config(settings, checkpoint)).local(settings.tp_size)


def load_part(
    settings: Settings,
    backend: Backend,
    selection: Selection | None,
    *,
    load_format: LoadFormat,
    progress: bool = True,
    models: Mapping[str, str] | None = None,
) -> Part:
    """Plan, load and bind ``settings.model`` on ``backend``, one rank's part of it or the whole.

    ``models``: further architectures, beside those that plugins add.
    Raises the deliberate errors of :mod:`zif.contract.errors`.
    """
    comm = backend.communicator
    if comm.size != settings.tp_size:
        raise InvalidSettings(f"--tp-size {settings.tp_size}: {backend.name} was made for {comm.size}")
    checkpoint = open_checkpoint(model_path(settings), settings.revision)
    family = zif_models.resolve(checkpoint.config, {**further_models(selection), **(models or {})})
    longest = family.build(checkpoint.config).context_length
    config = family_config(settings, checkpoint)
    whole = with_its_head(config, family.build, checkpoint.tensors) if load_format == "auto" else family.build(config)
    model = whole if comm.size == 1 else whole.local(comm.size)
    plan = plan_engine(settings, longest, checkpoint_dtype(checkpoint.config), backend, unsafe_dtypes(whole))
    name = selection.plugin.name if selection is not None else backend.name
    formats = [*extension_formats(backend, name), *backend.cache_formats()]
    groups = stored_groups(model.cache_groups, formats, plan.kv_cache_dtype, plan.page_size, backend.name)
    before = backend.runtime.memory()
    if weight_bytes(whole, plan.dtype, comm.size) > before.total:
        raise weights_do_not_fit(whole, plan, backend, before)
    try:
        shards = [
            load_weights(
                whole, checkpoint, packer, plan.dtype,
                load_format=load_format, progress=progress, shard=Shard(rank, comm.size),
            )
            for rank, packer in comm.packers(backend.packer).items()
        ]  # fmt: skip
    except OutOfMemory as error:
        raise weights_do_not_fit(whole, plan, backend, before, error) from error
    weights = comm.join(shards)
    requests = model_requests(model, weights, plan.dtype, groups)
    providers = [*extension_kernels(backend, name), *backend.kernels()]
    bound = bind_ranks(requests, providers, comm, model.vocab_size, settings.kernel)
    return Part(backend, model, plan, groups, formats, weights, bound)


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
