"""The form in which each kernel gives its result: the first that every taker lists, or that a resolver makes plain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from zif.contract.form import Form, GivenForm
from zif.contract.kernels import COMPOSITE, Kernel
from zif.contract.ops import op_specs

Serving = Mapping[str, Sequence[Kernel]]
"""The kernels that serve each op of a model, each once."""


def given_forms(serving: Serving, resolvable: Collection[Form]) -> dict[Kernel, GivenForm]:
    """The form that each kernel which declares some is to give."""
    found = {}
    for op, kernels in serving.items():
        takers = list(_takers(op_specs()[op].opaque_to, serving))
        for kernel in kernels:
            if kernel.gives:
                found[kernel] = _chosen(kernel, takers, serving, resolvable)
    return found


def takes(kernel: Kernel, parameter: str, form: Form, serving: Serving) -> bool:
    """Whether a kernel takes ``form`` as ``parameter``; a composite does if the op that it passes it to does."""
    if kernel.provider != COMPOSITE:
        return form in kernel.takes.get(parameter, ())
    to = op_specs()[kernel.op].passes.get(parameter)
    if to is None:
        return False
    op, _, its = to.partition(".")
    return all(takes(other, its, form, serving) for other in serving.get(op, ()))


def _takers(places: Sequence[str], serving: Serving) -> Iterator[tuple[Kernel, str]]:
    for place in places:
        op, _, parameter = place.partition(".")
        for kernel in serving.get(op, ()):
            yield kernel, parameter


def _chosen(
    giver: Kernel, takers: Sequence[tuple[Kernel, str]], serving: Serving, resolvable: Collection[Form]
) -> GivenForm:
    if not takers:
        return GivenForm(str(giver), None, "nothing that it may go to is bound")
    reasons = []
    for form in giver.gives:
        lacking = [f"{kernel}" for kernel, name in takers if not takes(kernel, name, form, serving)]
        if form in resolvable:
            return GivenForm(str(giver), form, "takers that do not list it get an Array" if lacking else "all take it")
        if not lacking:
            return GivenForm(str(giver), form, "all take it")
        reasons.append(f"{form} is not taken by {', '.join(dict.fromkeys(lacking))}")
    return GivenForm(str(giver), None, "; ".join(reasons))
