"""Whether a model's head is the embedding's table: where flags and tensors disagree, tensors decide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zif.contract.errors import WeightsError
from zif.contract.weights import WeightSpec

if TYPE_CHECKING:
    from zif.contract.model import Model
    from zif.weights.checkpoint import Tensors

FLAG = "tie_word_embeddings"
_ROWS = 4096
logger = logging.getLogger(__name__)


def with_its_head(config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Model], tensors: Tensors) -> Model:
    """The model of ``config``, tied if the checkpoint stores no head, or the embedding's values once more as one.

    A head that is stored and differs is used, whatever the flag says, as transformers 5 does. Where the outer and
    the inner flag of a multimodal config contradict each other, a stored head is used, and none means tied.
    Raises WeightsError if the model cannot be built with what the checkpoint stores.
    """
    model = build(config)
    contradicted = len({part[FLAG] for part in _parts(config) if isinstance(part.get(FLAG), bool)}) > 1
    tied = build(_flagged(config, True)) if contradicted else model
    found = _tied(tied)
    if found is None:
        return model
    head, embedding = found
    if tensors.stored(head) is None:
        if contradicted:
            logger.warning("config.json contradicts itself about %s: %s is not stored, so it is tied", FLAG, head)
        return tied
    if not contradicted and _equal(tensors, head, embedding):
        return tied
    own = build(_flagged(config, False))
    if _tied(own) is not None:
        raise WeightsError(f"the checkpoint stores {head}, which differs from {embedding}, and its model ties the two")
    logger.warning("%s is stored and is used, though config.json says %s", head, FLAG)
    return own


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [part for part in (config, config.get("text_config")) if isinstance(part, Mapping)]


def _flagged(config: Mapping[str, Any], value: bool) -> dict[str, Any]:
    flagged = {**config, FLAG: value}
    if isinstance(config.get("text_config"), Mapping):
        flagged["text_config"] = {**config["text_config"], FLAG: value}
    return flagged


def _tied(model: Model) -> tuple[str, str] | None:
    """Names of a tied head's tensor and of its embedding's."""
    specs = model.weights()
    for spec in specs.values():
        if isinstance(spec, WeightSpec) and spec.tied is not None:
            (head,), (table,) = spec.repeated_names(), specs[spec.tied].stored()
            return head, table
    return None


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    """Whether two tensors hold the same values. They are read piece by piece: to differ, they mostly do at once."""
    first, second = tensors.stored(one), tensors.stored(other)
    if first is None or second is None or first.shape != second.shape:
        return False
    a, b = tensors.read(one), tensors.read(other)
    starts = range(0, len(a), _ROWS)
    same = all(
        np.array_equal(a[at : at + _ROWS].astype(np.float32), b[at : at + _ROWS].astype(np.float32)) for at in starts
    )
    tensors.release(one)
    return same
