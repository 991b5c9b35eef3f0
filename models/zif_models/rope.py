"""Rotary embeddings: from a config's parameters, in either dialect, to a :class:`RopeSpec`.

Every scaling variant is a choice of inverse frequencies, made once at load; formulas are those of
``transformers.modeling_rope_utils``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from zif.contract import RopeSpec, UnsupportedModel
from zif_models.config import LARGEST, LAYER_KINDS, Config, is_number, shortened

Parameters = dict[str, Any]

_LISTS = ("short_factor", "long_factor")
_NUMBERS = {
    "rope_theta": (1.0, 1e15),
    "partial_rotary_factor": (0.0, 1.0),
    "factor": (0.0, 1e6),
    "low_freq_factor": (0.0, 1e6),
    "high_freq_factor": (0.0, 1e6),
    "beta_fast": (0.0, 1e6),
    "beta_slow": (0.0, 1e6),
    "attention_factor": (0.0, 1e6),
    "mscale": (-1.0, 1e6),
    "mscale_all_dim": (-1.0, 1e6),
    "original_max_position_embeddings": (1.0, LARGEST),
}
"""A parameter's least value, which it exceeds, and its greatest."""


def rope_parameters(config: Config, layer_kind: str = "full_attention") -> Parameters:
    """Rotary parameters of ``layer_kind``, in the newer dialect whichever the config speaks.

    Newer: ``rope_parameters`` with everything in it, or a dict of those a layer kind. Older:
    ``rope_theta`` and ``rope_scaling``, whose type is called ``type`` or ``rope_type``.
    """
    given = config.table("rope_scaling") or config.table("rope_parameters")
    if any(kind in given for kind in LAYER_KINDS):
        given = Config({}, given).table(layer_kind)
    parameters = dict(given)
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    for key, default in (("rope_theta", 10_000.0), ("partial_rotary_factor", 1.0)):
        value = config.get(key)
        parameters.setdefault(key, default if value is None else value)
    original = config.get("original_max_position_embeddings")  # Phi-3 keeps it outside, and means it
    if original is not None:
        parameters["original_max_position_embeddings"] = original
    parameters.setdefault("original_max_position_embeddings", config.integer("max_position_embeddings"))
    return parameters


def rope_spec(config: Config, parameters: Parameters | None = None) -> RopeSpec:
    """The rotary embedding that ``parameters`` (of :func:`rope_parameters`) describe.

    Raises UnsupportedModel for an unknown type, or parameters that are missing.
    """
    given = rope_parameters(config) if parameters is None else parameters
    parameters = {key: value for key, value in given.items() if value is not None}
    _check(parameters)
    kind = parameters.get("rope_type", "default")
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise UnsupportedModel(f"config.json: rope type {kind!r} is unknown; known: {', '.join(_SCALINGS)}")
    rotary_dim = int(config.head_dim() * parameters["partial_rotary_factor"])
    if rotary_dim % 2 or rotary_dim < 2:
        raise UnsupportedModel(f"config.json: {rotary_dim} rotary dimensions of a head; they must be pairs")
    try:
        frequencies, factor = _SCALINGS[kind](rotary_dim, parameters, config)
    except KeyError as error:
        raise UnsupportedModel(f"config.json: rope type {kind!r} needs the parameter {error}") from None
    except (ArithmeticError, ValueError):
        raise UnsupportedModel(f"config.json: rope type {kind!r} cannot be computed from {parameters}") from None
    if len(frequencies) != rotary_dim // 2:
        raise UnsupportedModel(f"config.json: {len(frequencies)} rope factors for {rotary_dim // 2} rotary pairs")
    if not all(math.isfinite(number) and number > 0 for number in (*frequencies, factor)):
        raise UnsupportedModel(f"config.json: rope type {kind!r} gives no frequencies for {parameters}")
    return RopeSpec(rotary_dim, tuple(frequencies), factor)


def _check(parameters: Parameters) -> None:
    """Raise UnsupportedModel for values that are of no use in any formula."""
    for key, value in parameters.items():
        if key in _LISTS:
            if not isinstance(value, list | tuple) or not all(is_number(number) and number > 0 for number in value):
                raise UnsupportedModel(f"config.json: {key} is {shortened(value)}, not a list of numbers above zero")
        elif key in _NUMBERS:
            low, high = _NUMBERS[key]
            if not is_number(value) or not low < value <= high:
                raise UnsupportedModel(
                    f"config.json: {key} is {shortened(value)}, not a number above {low:g} and at most {high:g}"
                )


def _frequencies(dim: int, theta: float) -> list[float]:
    """theta^(-2i/dim) for i in [0, dim/2) (Su et al. 2021)."""
    return [theta ** (-i / dim) for i in range(0, dim, 2)]


def _default(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    return _frequencies(dim, p["rope_theta"]), 1.0


def _linear(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    """Position interpolation (Chen et al. 2023)."""
    return [f / p["factor"] for f in _frequencies(dim, p["rope_theta"])], 1.0


def _dynamic(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    """NTK-aware scaling, for the served context: none of it up to the trained one.

    transformers recomputes it as a sequence grows, which leaves keys in the cache turned by other
    frequencies than the query's; we take those of the longest sequence for all.
    """
    trained = config.integer("max_position_embeddings")
    ratio = max(config.context_length(), trained) / trained
    stretch = p["factor"] * ratio - (p["factor"] - 1)
    return _frequencies(dim, p["rope_theta"] * stretch ** (dim / (dim - 2))), 1.0


def _llama3(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    """Llama 3.1: long waves are stretched by ``factor``, short ones kept, a ramp between."""
    low, high, trained = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
    scaled = []
    for frequency in _frequencies(dim, p["rope_theta"]):
        turns = trained * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        scaled.append(frequency * (kept + (1 - kept) / p["factor"]))
    return scaled, 1.0


def _yarn(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    """YaRN (Peng et al. 2023): interpolate slow pairs, keep fast ones, and raise the temperature."""
    theta, trained = p["rope_theta"], p["original_max_position_embeddings"]
    factor = p.get("factor") or config.integer("max_position_embeddings") / trained

    def pair_turning(times: float) -> float:
        return dim * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_turning(p.get("beta_fast") or 32), pair_turning(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = last - first or 0.001
    scaled = []
    for i, frequency in enumerate(_frequencies(dim, theta)):
        interpolated = min(max((i - first) / width, 0.0), 1.0)
        scaled.append(frequency * (1 - interpolated + interpolated / factor))
    return scaled, _yarn_attention_factor(p, factor)


def _yarn_attention_factor(p: Parameters, factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return scale(p["mscale"]) / scale(p["mscale_all_dim"])
    return scale(1.0)


def _longrope(dim: int, p: Parameters, config: Config) -> tuple[list[float], float]:
    """LongRoPE (Ding et al. 2024): a factor a pair, one set for the trained context and one beyond.

    The served context chooses the set once, so that all keys in the cache are turned alike.
    """
    trained = p["original_max_position_embeddings"]
    factors = p["long_factor"] if config.context_length() > trained else p["short_factor"]
    attention_factor = p.get("attention_factor")
    if attention_factor is None:
        growth = p.get("factor") or config.integer("max_position_embeddings") / trained
        attention_factor = math.sqrt(1 + math.log(growth) / math.log(trained)) if growth > 1 else 1.0
    if len(factors) != dim // 2:
        return list(factors), attention_factor
    return [f / by for f, by in zip(_frequencies(dim, p["rope_theta"]), factors, strict=True)], attention_factor


_SCALINGS: Mapping[str, Callable[[int, Parameters, Config], tuple[list[float], float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
