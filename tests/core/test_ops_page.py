"""One source for the ops: what types, tables and pages say of them is what their specifications say.

docs/ops.md is also the pin of what the contract asks of backends. After a change that is meant:
``python tests/core/test_ops_page.py`` rewrites it, and the diff is reviewed.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from zif.contract import optable
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest, OpSpec

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"
HEAD = """# The ops

Made from the specifications in `core/zif/contract/ops/` by `python tests/core/test_ops_page.py`. Each is the numpy
function of its name, whose docstring says what it computes. A backend that claims a profile serves every op of it, and
those of `array`, through a kernel of its own, a composite or a reference.

* *facts*: what a request of it says; an op without is bound unasked.
* *made of*: the ops that a composite asks for (beside those without facts).
* *opaque to*: parameters that its first result may go to in a [form](contract.md#forms) of the kernels' own.
"""


def page() -> str:
    """docs/ops.md."""
    lines = [HEAD]
    for profile in dict.fromkeys(spec.profile for spec in op_specs().values()):
        lines += [
            f"## Profile `{profile}`",
            "",
            "| op | level | facts | made of | opaque to |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(spec) for spec in op_specs().values() if spec.profile == profile]
        lines.append("")
    lines += ["## Facts", "", "| fact | |", "|---|---|"]
    facts: dict[str, dict[str, None]] = {}
    for fact in (fact for spec in op_specs().values() for fact in spec.facts):
        words = ": " + ", ".join(fact.values) if fact.values else ""
        facts.setdefault(fact.name, {})[fact.meaning + words] = None
    lines += [f"| `{name}` | {'; '.join(meanings)} |" for name, meanings in sorted(facts.items())]
    return "\n".join(lines) + "\n"


def _row(spec: OpSpec) -> str:
    parameters = ", ".join(spec.parameters)
    added = "".join(f", `{name}` {level}" for name, level in spec.added.items())
    facts = ", ".join(fact.name for fact in spec.facts)
    made = (
        "-" if spec.composite is None else ", ".join(dict.fromkeys(part.op for part in _parts(spec))) or "ops without"
    )
    cells = (
        f"`{spec.name}({parameters})`",
        f"{spec.since}{added}",
        facts or "-",
        made,
        ", ".join(spec.opaque_to) or "-",
    )
    return f"| {' | '.join(cells)} |"


def _parts(spec: OpSpec) -> Iterator[OpRequest]:
    """What its cases' requests ask for; of an op without cases, any request of the same facts."""
    import numpy as np

    sources = [one for one in op_specs().values() if one.facts == spec.facts and one.cases is not None]
    source = spec if spec.cases is not None else sources[-1]
    assert source.cases is not None
    for case in source.cases(np.random.default_rng(0), "float32"):
        yield from spec.parts(case.request.as_of(spec.name))


def test_the_page_of_ops_is_made_from_the_specifications() -> None:
    assert page() == PAGE.read_text()


def test_cases_requests_have_the_facts_that_their_ops_declare() -> None:
    import numpy as np

    for spec in op_specs().values():
        for case in spec.cases(np.random.default_rng(0), "float32") if spec.cases is not None else ():
            spec.check(case.request)
            for part in spec.parts(case.request):
                op_specs()[part.op].check(part)


def test_the_table_of_ops_has_the_signatures_of_the_specifications() -> None:
    (table,) = [node for node in ast.walk(ast.parse(inspect.getsource(optable))) if isinstance(node, ast.ClassDef)]
    (guard,) = [node for node in table.body if isinstance(node, ast.If)]
    typed = {node.name: _signature(node) for node in guard.body if isinstance(node, ast.FunctionDef)}
    assert typed == {name: _specified(spec) for name, spec in op_specs().items()}


def _signature(node: ast.FunctionDef) -> list[tuple[str, str]]:
    names = [argument.arg for argument in node.args.args][1:]
    defaults = [ast.unparse(default) for default in node.args.defaults]
    return list(zip(names, [""] * (len(names) - len(defaults)) + defaults, strict=True))


def _specified(spec: OpSpec) -> list[tuple[str, str]]:
    return [
        (name, "" if one.default is inspect.Parameter.empty else repr(one.default))
        for name, one in inspect.signature(spec.reference).parameters.items()
    ]


if __name__ == "__main__":
    PAGE.write_text(page())
