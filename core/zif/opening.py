"""From settings to a frontend over an engine that is yet to be started: what server and LLM share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import zif_models
from zif.contract.errors import InvalidRequest, WeightsError
from zif.frontend import Frontend, ModelInfo
from zif.plugins import select
from zif.sampling.params import SamplingParams
from zif.tokenizer import Tokenizer, load_tokenizer
from zif.weights import open_checkpoint

if TYPE_CHECKING:
    from zif.frontend.client import EngineClient
    from zif.settings import Settings

logger = logging.getLogger(__name__)


def open_frontend(settings: Settings, engine: EngineClient) -> Frontend:
    """Load what a frontend needs beside its engine: tokenizer, chat template, the model's limits.

    Imports no tensor library, and fails early for a device, model or tokenizer that cannot be had.
    """
    from zif.engine.part import family_config, further_models, model_path
    from zif.process.build import served_name

    selection = select(settings.device, settings.device_opt)
    path = model_path(settings)
    checkpoint = open_checkpoint(path, settings.revision, tensors=False)
    model = zif_models.resolve(checkpoint.config, further_models(selection)).build(family_config(settings, checkpoint))
    tokenizer = _tokenizer(settings, path)
    info = ModelInfo(
        names=(served_name(settings),),
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        eos_token_ids=tokenizer.eos_token_ids,
        sampling_defaults=sampling_defaults(tokenizer, path) if settings.sampling_defaults == "model" else {},
    )
    return Frontend(tokenizer, engine, info)


def sampling_defaults(tokenizer: Tokenizer, path: str) -> dict[str, Any]:
    """Return what requests to a model get that leave sampling open: what its ``generation_config.json`` recommends.

    Raises :class:`WeightsError` for a value that no request could be served with.
    """
    try:
        SamplingParams(**tokenizer.generation_defaults)
    except InvalidRequest as error:
        raise WeightsError(
            f"{path}: generation_config.json: {error}: correct it, or start with --sampling-defaults openai, which "
            "does without it"
        ) from None
    return dict(tokenizer.generation_defaults)


def _tokenizer(settings: Settings, path: str) -> Tokenizer:
    source = settings.tokenizer_path or path
    literal = settings.special_tokens_in_text == "text"
    try:
        return load_tokenizer(source, revision=settings.revision, chat_template=settings.chat_template, literal=literal)
    except WeightsError:
        if settings.load_format != "dummy" or settings.tokenizer_path is not None:
            raise
    from zif import bundled

    logger.warning("%s has no tokenizer: with dummy weights, the bundled model's stands in for it", path)
    return load_tokenizer(bundled.path(), literal=literal)
