"""How much of the suite is run."""

from __future__ import annotations

from dataclasses import dataclass

from zif.conformance.scale import BEYOND, LARGE, Sizes


@dataclass(frozen=True)
class Scope:
    """``quick``: one dtype, no lossy caches, and of the engine's laws those against the specifications alone.

    ``seed`` is that of all inputs. ``large``: ops at the sizes of served models too.
    """

    quick: bool = False
    seed: int = 0
    large: bool = False

    def dtypes(self, offered: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a backend that are checked: float32 first, where bounds are narrowest."""
        first = "float32" if "float32" in offered else offered[0]
        return (first,) if self.quick else tuple(dict.fromkeys((first, *offered)))

    @property
    def sizes(self) -> tuple[Sizes, ...]:
        """Those of the cases of scale."""
        return (BEYOND, LARGE) if self.large else (BEYOND,)


EVERYTHING = Scope()
