"""When a step is launched behind the one that runs."""

from __future__ import annotations

from multiprocessing import Pipe
from typing import Any

import pytest

from zif.engine.loop import PipePort, Port, _run
from zif.engine.messages import EngineRequest
from zif.engine.pace import RECENT, SPARE, Pace
from zif.engine.wire import Abort, Add, Ask, Command, Stop
from zif.sampling.params import SamplingParams

STEP, LAUNCH = 0.010, 0.0005
REQUEST = EngineRequest("one", [1, 2], SamplingParams(), ())


def decoding(steps: int, pace: Pace, length: float = STEP) -> float:
    """So many decode steps, one behind the other; the time at which the last ended."""
    now = 100.0
    pace.launched(now, LAUNCH, decode=True, behind=False)
    for _ in range(steps):
        pace.launched(now + LAUNCH, LAUNCH, decode=True, behind=True)
        now += length
        pace.ended(now, decode=True)
    return now


def test_a_launch_waits_until_it_just_hides_behind_the_step_that_runs() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    room = STEP - 2 * LAUNCH - SPARE
    assert pace.room(now) == pytest.approx(room)
    assert pace.room(now + 0.004) == pytest.approx(room - 0.004)
    assert pace.room(now + STEP) == 0.0


def test_the_shortest_of_the_last_steps_counts() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.ended(now := now + STEP / 2, decode=True)
    assert pace.room(now) == pytest.approx(STEP / 2 - 2 * LAUNCH - SPARE)
    for _ in range(RECENT):
        pace.ended(now := now + STEP, decode=True)
    assert pace.room(now) == pytest.approx(STEP - 2 * LAUNCH - SPARE)


@pytest.mark.parametrize("steps", range(RECENT))
def test_nothing_waits_before_steps_are_known(steps: int) -> None:
    pace = Pace()
    assert pace.room(decoding(steps, pace)) == 0.0


def test_nothing_waits_behind_a_prompt_or_a_short_step() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.launched(now, LAUNCH, decode=False, behind=True)
    assert pace.room(now) == 0.0
    short = Pace()
    assert short.room(decoding(RECENT, short, 0.0015)) == 0.0


def test_a_prompt_says_nothing_of_how_long_decode_steps_take() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.launched(now, LAUNCH, decode=False, behind=True)
    pace.ended(now := now + STEP, decode=True)
    pace.launched(now, LAUNCH, decode=True, behind=True)
    pace.ended(now := now + 20 * STEP, decode=False)
    assert pace.room(now) == pytest.approx(STEP - 2 * LAUNCH - SPARE)


class OneStep:
    """An engine that has work for one step, and lets that wait."""

    has_work = True

    def __init__(self) -> None:
        self.log: list[str] = []

    @property
    def patience(self) -> float:
        return 0.0 if "add" in self.log else 5.0

    def step(self) -> list[Any]:
        self.log.append("step")
        return []

    def add(self, request: EngineRequest) -> None:
        self.log.append("add")

    def abort(self, request_ids: Any) -> list[Any]:
        self.log.append("abort")
        return []

    def stats(self) -> dict[str, Any]:
        self.log.append("stats")
        return {}


class Script(Port):
    """Commands, each with the seconds after which it comes, as a clock of its own counts them."""

    def __init__(self, commands: list[tuple[float, Command]], patient: bool) -> None:
        self.patient, self._commands, self.now = patient, commands, 0.0

    def receive(self, seconds: float | None) -> Command | None:
        when, command = self._commands[0]
        if seconds is not None and when > self.now + seconds:
            self.now += max(seconds, 1.0)
            return None
        self.now = max(self.now, when)
        self._commands.pop(0)
        return command

    def send(self, message: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("patient", "log"),
    [(True, ["abort", "stats", "add", "step"]), (False, ["step", "step", "abort", "step", "stats", "add", "step"])],
)
def test_the_loop_takes_what_comes_while_a_step_can_wait(patient: bool, log: list[str]) -> None:
    """One that comes ends the waiting; the other commands do not."""
    engine: Any = OneStep()
    commands = [(1.5, Abort(())), (2.5, Ask(1, "stats")), (3.0, Add(REQUEST)), (4.0, Stop())]
    _run(engine, Script(commands, patient))
    assert engine.log[: len(log)] == log


def test_a_pipe_is_waited_for_as_long_as_asked() -> None:
    ours, theirs = Pipe()
    port = PipePort(theirs)
    assert port.receive(0.0) is None
    assert port.receive(0.001) is None
    ours.send(Add(REQUEST))
    assert port.receive(0.001) == Add(REQUEST)
    ours.send(Stop())
    assert port.receive(None) == Stop()
    ours.close()
    assert isinstance(port.receive(0.001), Stop)
