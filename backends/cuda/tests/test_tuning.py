"""What is measured of linears, and how it is kept: with a timer that is given, on no GPU."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import threading
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from zif.contract.weights import PackedWeight, Split
from zif.portable.triton import Machine
from zif.portable.triton.linear import Tile
from zif_cuda.linears import CudaLinears
from zif_cuda.tiles import BUCKETS, Case, Kind, bucket, candidates, default
from zif_cuda.tuning import Choices, Measured, TuningFile

H200, A100, SMALL = Machine(132, 232448), Machine(108, 166912), Machine(84, 101376)
MACHINE = {"gpu": "a GPU", "triton": "3.6.0"}
QKV = Case("linear", 4096, 1024, "bfloat16", 32)


class Timer:
    """The tile that ``best`` names takes a microsecond, others two; counts what it is asked."""

    def __init__(self, best: Tile | None, otherwise: float = 2.0) -> None:
        self.best, self.otherwise, self.asked = best, otherwise, 0

    def __call__(self, case: Case, tile: Tile | None) -> float:
        self.asked += 1
        return 1.0 if tile == self.best else self.otherwise


def test_the_fastest_is_taken_and_kept_for_the_next_start(tmp_path: Path) -> None:
    timer = Timer(None)
    choices = Choices(H200, TuningFile(tmp_path, MACHINE), timer)
    choices.measure()
    assert choices.tile(QKV) is None  # cuBLAS, although the default is a tile
    asked = timer.asked
    assert asked == len(list(candidates(QKV, H200))) > 2
    assert choices.tile(QKV) is None
    again = Choices(H200, TuningFile(tmp_path, MACHINE), timer)
    again.measure()
    assert again.tile(QKV) is None
    assert timer.asked == asked, "what is on disk is not measured again"


def test_what_is_hardly_faster_is_not_taken() -> None:
    choices = Choices(H200, None, lambda case, tile: 2.0 if tile == default(QKV, H200) else 1.98)
    choices.measure()
    assert choices.tile(QKV) == default(QKV, H200)


@pytest.mark.parametrize(("kind", "rows", "inner"), [("gated", 28672, 4096), ("sum", 1024, 3072)])
def test_what_the_rule_knows_from_whole_steps_is_not_measured(kind: Kind, rows: int, inner: int) -> None:
    few, many = (Case(kind, rows, inner, "bfloat16", tokens) for tokens in (32, 128))
    assert list(candidates(many, H200)) == [default(many, H200)]
    assert len(list(candidates(few, H200))) > 2


def test_cublas_is_left_where_the_rule_has_it() -> None:
    assert list(candidates(Case("gated", 28672, 4096, "bfloat16", 128), H200)) == [None]


def test_large_gated_weights_are_ours_where_few_processors_are_idle_in_the_end() -> None:
    for tokens in (64, 96):
        assert default(Case("gated", 28672, 4096, "bfloat16", tokens), H200) is not None  # 224 programs
        assert default(Case("gated", 19456, 2560, "bfloat16", tokens), H200) is None  # 152, of which 20 come last


def test_nothing_is_measured_unasked_but_what_was_is_taken(tmp_path: Path) -> None:
    timer, file = Timer(None), TuningFile(tmp_path, MACHINE)
    assert Choices(H200, file, timer).tile(QKV) == default(QKV, H200)
    tile = Tile(32, 32, 64, stages=3)
    file.write({QKV: Measured(tile, 4.2)})
    assert Choices(H200, file, timer).tile(QKV) == tile
    assert timer.asked == 0


def test_what_was_kept_gives_way_to_the_rule_where_nothing_else_is_tried(tmp_path: Path) -> None:
    file, case = TuningFile(tmp_path, MACHINE), Case("gated", 28672, 4096, "bfloat16", 96)
    assert list(candidates(case, H200)) == [default(case, H200)]
    file.write({case: Measured(None, 4.2)})
    assert Choices(H200, file, Timer(None)).tile(case) == default(case, H200) is not None


def test_a_choice_is_final_for_a_process(tmp_path: Path) -> None:
    choices = Choices(H200, TuningFile(tmp_path, MACHINE), Timer(None))
    before = choices.tile(QKV)
    choices.measure()
    assert choices.tile(QKV) == before, "a graph recorded before would differ from steps run after"


@pytest.mark.parametrize(("split", "ranks"), [(None, 1), ("columns", 2), (None, 2)])
def test_ranks_multiply_what_is_whole_on_each_alike(split: Split | None, ranks: int) -> None:
    timer = Timer(None)
    choices = Choices(H200, None, timer)
    choices.measure()
    launched: list[object] = []
    linears = CudaLinears(lambda kernel, *_, **__: launched.append(kernel), choices, ranks)
    weight = PackedWeight({"w": torch.zeros(128, 64, dtype=torch.bfloat16)}, "dense", (128, 64), split=split)
    linears._product("linear", torch.zeros(32, 64, dtype=torch.bfloat16), weight, None)
    measured = split is not None or ranks == 1
    assert bool(timer.asked) == measured
    assert bool(launched) != measured, "cuBLAS was measured to be faster, and is not what the rule has"


def test_where_nothing_can_be_run_the_default_is_taken_and_nothing_kept(tmp_path: Path) -> None:
    choices = Choices(H200, TuningFile(tmp_path, MACHINE), lambda case, tile: math.inf)
    choices.measure()
    assert choices.tile(QKV) == default(QKV, H200)
    assert not list(tmp_path.iterdir())


def test_other_machines_have_other_files(tmp_path: Path) -> None:
    TuningFile(tmp_path, MACHINE).write({QKV: Measured(None, 1.0)})
    assert TuningFile(tmp_path, {**MACHINE, "triton": "3.9.0"}).read() == {}
    assert TuningFile(tmp_path, MACHINE).read() == {QKV: Measured(None, 1.0)}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"machine": {}, "choices": []}', None], ids=["empty", "list", "cut", "foreign", "tile"]
)
def test_a_bad_file_is_ignored_with_a_warning_and_rewritten(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TuningFile(tmp_path, MACHINE)
    file.write({QKV: Measured(Tile(32, 64, 128), 1.0)})
    if content is None:
        broken = json.loads(file.path.read_text())
        broken["choices"][0]["tile"]["colour"] = "blue"
        content = json.dumps(broken)
    file.path.write_text(content)
    assert file.read() == {}
    assert str(file.path) in caplog.text
    file.write({QKV: Measured(None, 2.0)})
    assert file.read() == {QKV: Measured(None, 2.0)}


def left(directory: Path) -> set[str]:
    """Names of files, those that are only locked aside."""
    return {path.name for path in directory.iterdir() if path.suffix != ".lock"}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(tokens: int) -> None:
        for rows in range(64, 576, 64):
            TuningFile(tmp_path, MACHINE).write({Case("sum", rows, 3072, "bfloat16", tokens): Measured(None, 1.0)})

    threads = [threading.Thread(target=write, args=(tokens,)) for tokens in (1, 16, 32, 64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = TuningFile(tmp_path, MACHINE)
    assert len(file.read()) == 4 * 8
    assert left(tmp_path) == {file.path.name}, "something half written is left"


def test_what_could_not_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zif_cuda.tuning.os.replace", full)
    TuningFile(tmp_path, MACHINE).write({QKV: Measured(None, 1.0)})
    assert "No space left" in caplog.text
    assert not left(tmp_path)


def test_a_directory_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "file"
    place.write_text("")
    TuningFile(place / "below", MACHINE).write({QKV: Measured(None, 1.0)})
    assert "cannot keep" in caplog.text


@pytest.mark.parametrize("gpu", [H200, A100, SMALL], ids=["H200", "A100", "small"])
@pytest.mark.parametrize("tokens", BUCKETS)
@pytest.mark.parametrize("kind", ["linear", "sum", "gated", "logits"])
@pytest.mark.parametrize(("rows", "inner"), [(1024, 2048), (4096, 14336), (6144, 1024), (2304, 1152), (130, 192)])
def test_every_tile_fits_its_weight(kind: str, rows: int, inner: int, tokens: int, gpu: Machine) -> None:
    case = Case(kind, rows, inner, "bfloat16", tokens)  # type: ignore[arg-type]
    tiles = [tile for tile in candidates(case, gpu) if tile is not None]
    for tile in tiles:
        assert tile.fits(inner)
        stage = (tile.tokens + tile.outputs * (1 + (kind == "gated"))) * tile.inputs * 2
        assert tokens == 1 or tile.stages * stage <= gpu.shared_bytes
        assert tile.splits == 1 or kind == "sum"
        assert (tile.tokens == 1) == (tokens == 1)
    assert default(case, gpu) in [None, *tiles]


def test_tokens_go_into_the_next_bucket() -> None:
    assert [bucket(tokens) for tokens in (1, 2, 16, 17, 129, 256, 257)] == [1, 16, 16, 32, 192, 256, None]
