"""Static descriptions of mixtures of experts: hashable, known at load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from zif.contract.errors import UnsupportedModel

Scoring = Literal["softmax", "sigmoid"]
GroupScore = Literal["max", "top2"]


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """How a router's logits choose ``top_k`` of ``experts``, and weigh them.

    Scores are the softmax over all experts, or the sigmoid of each. A correction bias, where the model has one, is
    added to the scores that experts are chosen by, and not to those that they are weighed with. Of ``groups`` equal
    groups of neighbouring experts, those of the ``top_groups`` best alone can be chosen; a group is as good as its
    best expert (``max``, DeepSeek-V2) or as its two best together (``top2``, DeepSeek-V3). The weights of the chosen
    are divided by their sum if ``normalize``, then multiplied by ``scale``. (A softmax over the chosen alone, as
    gpt-oss has it, is a softmax with ``normalize``.)

    Raises UnsupportedModel, with the field's name, for a style that is none.
    """

    experts: int
    top_k: int
    scoring: Scoring = "softmax"
    normalize: bool = False
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_score: GroupScore = "max"

    def __post_init__(self) -> None:
        for field, known in (("scoring", Scoring), ("group_score", GroupScore)):
            if getattr(self, field) not in get_args(known):
                names = " or ".join(get_args(known))
                raise UnsupportedModel(f"experts: {field} is {getattr(self, field)!r}, not {names}")
        if self.groups < 1 or self.experts % self.groups:
            raise UnsupportedModel(f"experts: {self.experts} experts do not make {self.groups} groups")
        if not 1 <= self.top_groups <= self.groups:
            raise UnsupportedModel(f"experts: top_groups is {self.top_groups} of {self.groups} groups")
        if self.group_score == "top2" and self.experts < 2 * self.groups:
            raise UnsupportedModel(f"experts: group_score is top2, and {self.groups} groups have one expert each")
        within = self.experts // self.groups * self.top_groups
        if not 1 <= self.top_k <= within:
            raise UnsupportedModel(f"experts: top_k is {self.top_k}, and there are {within} to choose from")


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """The gated activation of gpt-oss: gate at most ``limit``, up within ``limit`` of zero, then
    gate * sigmoid(``alpha`` * gate) * (up + ``offset``).
    """

    limit: float
    alpha: float = 1.0
    offset: float = 0.0
