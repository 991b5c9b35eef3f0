"""Which ops each profile requires, by level of the contract: those of the profile that the level has.

A backend that claims a profile must serve every op of it, through a kernel of its own, a composite
or its framework's reference. The lists of each level are pinned by a test: to require more of plugins is a
change that someone makes on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zif.contract.errors import InvalidSettings
from zif.contract.ops import op_specs


def profiles_at(level: int) -> Mapping[str, tuple[str, ...]]:
    """The ops of each profile at ``level``, in the order in which they are specified."""
    lists: dict[str, tuple[str, ...]] = {}
    for name, spec in op_specs().items():
        if spec.since <= level:
            lists[spec.profile] = (*lists.get(spec.profile, ()), name)
    return lists


def required(profiles: tuple[str, ...], level: int) -> list[str]:
    """Ops that a backend claiming ``profiles`` must serve; array ops are asked of any that claims one.

    Raises KeyError for a profile that this level does not have.
    """
    if not profiles:
        return []
    lists = profiles_at(level)
    return list(dict.fromkeys(op for profile in ("array", *profiles) for op in lists[profile]))


def known_profiles(names: Sequence[str], level: int) -> tuple[str, ...]:
    """``names``. Raises InvalidSettings for one that ``level`` does not have."""
    known = profiles_at(level)
    for name in names:
        if name not in known:
            raise InvalidSettings(f"--profile {name}: there is none; level {level} has {', '.join(known)}")
    return tuple(names)
