"""When a step is launched behind the one that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import pytest

from zif.engine.engine import Engine
from zif.engine.pace import RECENT, SPARE, Pace
from zif.engine.wire import Abort, Add, Ask, Command, Stop
from zif.messages import EngineRequest
from zif.process.build import build_engine
from zif.process.loop import PipePort, Port, _run
from zif.sampling.params import SamplingParams
from zif.settings import Settings

STEP, LAUNCH = 0.010, 0.0005
REQUEST = EngineRequest("one", [1, 2], SamplingParams(), ())


def decoding(steps: int, pace: Pace, length: float = STEP) -> float:
    """So many decode steps, one behind the other; the time at which the last ended."""
    now = 100.0
    pace.launched(now, LAUNCH, decode=True, behind=False)
    for _ in range(steps):
        pace.launched(now + LAUNCH, LAUNCH, decode=True, behind=True)
        now += length
        pace.ended(now, STEP, decode=True)
    return now


def test_a_launch_waits_until_it_just_hides_behind_the_step_that_runs() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    room = STEP - 2 * LAUNCH - SPARE
    assert pace.slack(now) == pytest.approx(room)
    assert pace.slack(now + 0.004) == pytest.approx(room - 0.004)
    assert pace.slack(now + STEP) == 0.0


def test_the_shortest_of_the_last_steps_counts() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.ended(now := now + STEP / 2, STEP, decode=True)
    assert pace.slack(now) == pytest.approx(STEP / 2 - 2 * LAUNCH - SPARE)
    for _ in range(RECENT):
        pace.ended(now := now + STEP, STEP, decode=True)
    assert pace.slack(now) == pytest.approx(STEP - 2 * LAUNCH - SPARE)


@pytest.mark.parametrize("steps", range(RECENT))
def test_nothing_waits_before_steps_are_known(steps: int) -> None:
    pace = Pace()
    assert pace.slack(decoding(steps, pace)) == 0.0


def test_nothing_waits_behind_a_prompt_or_a_short_step() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.launched(now, LAUNCH, decode=False, behind=True)
    assert pace.slack(now) == 0.0
    short = Pace()
    assert short.slack(decoding(RECENT, short, 0.0015)) == 0.0


def test_a_prompt_says_nothing_of_how_long_decode_steps_take() -> None:
    pace = Pace()
    now = decoding(RECENT, pace)
    pace.launched(now, LAUNCH, decode=False, behind=True)
    pace.ended(now := now + STEP, STEP, decode=True)
    pace.launched(now, LAUNCH, decode=True, behind=True)
    pace.ended(now := now + 20 * STEP, STEP, decode=False)
    assert pace.slack(now) == pytest.approx(STEP - 2 * LAUNCH - SPARE)


def idle_of(
    lengths: Sequence[float],
    launch: float = LAUNCH,
    late: float = 0.0001,
    hiccup: Callable[[int], float] = lambda _: 0.0,
) -> list[float]:
    """Seconds for which a device waited before each step after the first, its ``lengths`` being so.

    The host takes ``launch`` for each, wakes up ``late`` where it waited, and before step i does nothing for
    ``hiccup(i)``.
    """
    pace, now, idle = Pace(), 0.0, []
    pace.launched(now, launch, decode=True, behind=False)
    free = now + lengths[0]
    for number, length in enumerate(lengths[1:], 1):
        now += hiccup(number)
        room = pace.slack(now)
        now += (room + late if room else 0.0) + launch
        pace.launched(now, launch, decode=True, behind=True)
        idle.append(max(now - free, 0.0))
        end, free = free, max(now, free) + length
        waited = max(end - now, 0.0)
        now += waited
        pace.ended(now, waited, decode=True)
    return idle


def test_steps_of_equal_length_leave_no_gap() -> None:
    assert sum(idle_of([0.008] * 200)) == 0.0


@pytest.mark.parametrize(("before", "after"), [(0.012, 0.003), (0.030, 0.004)])
def test_steps_that_become_shorter_cost_one_gap(before: float, after: float) -> None:
    idle = idle_of([before] * 30 + [after] * 80)
    assert 0.0 < sum(idle) < before
    assert sum(gap > 0 for gap in idle) == 1


def test_what_the_host_was_late_is_not_taken_for_a_steps_length() -> None:
    idle = idle_of([0.004] * 150, hiccup=lambda number: 0.05 if 30 <= number < 36 else 0.0)
    assert sum(idle[36:]) == 0.0


def test_a_host_that_always_wakes_late_gives_up_waiting() -> None:
    idle = idle_of([0.008] * 1000, late=0.002)
    assert max(idle) < 0.002
    assert sum(idle) < 0.1 * 1000 * 0.002


class OneStep:
    """An engine that has work for one step, and lets that wait."""

    has_work = True

    def __init__(self) -> None:
        self.log: list[str] = []

    @property
    def patience(self) -> float:
        return 0.0 if "add" in self.log else 5.0

    def advance(self) -> list[Any]:
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


PROMPT = [1, 2, 3, 4]


def engine_of(**settings: Any) -> Engine:
    given = {"max_running_requests": 4, "chunked_prefill_size": 16, "device_opt": ("null.step_ms=60",), **settings}
    return build_engine(Settings(device="null", **given), progress=False)


def ask(engine: Engine, name: str, prompt: list[int]) -> None:
    params = SamplingParams(max_tokens=100, ignore_eos=True)
    assert engine.add(EngineRequest(name, prompt, params, ())) is None


def test_a_step_that_has_ended_sooner_than_others_is_not_waited_for() -> None:
    engine = engine_of()
    ask(engine, "one", PROMPT)
    for _ in range(7):
        engine.step()
    assert engine.patience > 0.0
    device: Any = engine.runner.backend
    device.device.options = replace(device.device.options, step_ms=0.0)
    engine.step()
    assert engine.patience == 0.0


def test_an_engine_is_patient_while_all_that_it_has_decodes() -> None:
    engine = engine_of()
    assert engine.patience == 0.0  # nothing runs
    ask(engine, "first", PROMPT)
    engine.step()
    assert engine.patience == 0.0  # a prompt does
    for _ in range(RECENT + 2):
        engine.step()
    assert 0.0 < engine.patience < 0.06
    ask(engine, "long", PROMPT * 10)
    assert engine.patience == 0.0  # it waits
    engine.step()
    assert engine.patience == 0.0  # the rest of it waits
    for _ in range(4):
        engine.step()
    assert engine.patience > 0.0
    engine.abort(None)
    while engine.has_work:
        engine.step()
    assert engine.patience == 0.0


def test_steps_in_turn_wait_for_nothing() -> None:
    engine = engine_of(disable_overlap_schedule=True)
    ask(engine, "first", PROMPT)
    for _ in range(RECENT + 3):
        engine.step()
        assert engine.patience == 0.0


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


@pytest.mark.parametrize("selectable", [1024, 0], ids=["select", "poll"])
def test_a_pipe_is_waited_for_as_long_as_asked(selectable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zif.process.loop.SELECTABLE", selectable)
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


def test_a_flood_of_commands_does_not_halt_what_runs() -> None:
    class Busy:
        """Takes a millisecond for a command, and has something to do at all times."""

        has_work, patience = True, 0.0
        steps = 0

        def abort(self, request_ids: Sequence[str] | None) -> list[Any]:
            time.sleep(0.001)
            return []

        def advance(self) -> list[Any]:
            self.steps += 1
            return []

    class Flood:
        """Brings 100 commands without a pause."""

        patient = True
        left = 100

        def receive(self, seconds: float | None) -> Command | None:
            self.left -= 1
            return Abort(["x"]) if self.left >= 0 else Stop()

        def send(self, message: object) -> None:
            pass

    engine: Any = Busy()
    flood: Any = Flood()
    _run(engine, flood)
    assert engine.steps >= 10  # one in 5 ms of commands
