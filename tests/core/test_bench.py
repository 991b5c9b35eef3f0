"""The benchmark runner: on the null device, and against a server that is a stub."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from zif.bench import Result, Workload, plot, run
from zif.bench.online import flags
from zif.bench.workload import parse_lengths
from zif.cli.main import main
from zif.contract.errors import InvalidSettings, ZifError
from zif.settings import Settings

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 32,
    "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return Settings(model=str(tmp_path), load_format="dummy", device="null", max_total_tokens=2048, page_size=4)


def test_offline_counts_every_token(settings: Settings) -> None:
    result = run(Workload(num_prompts=9, input_len=(5, 20), output_len=(1, 6)), settings)
    assert result.value("output throughput") > 0
    assert result.value("requests") * result.value("duration") == pytest.approx(9)
    assert result.facts["device"] == "null"
    json.dumps(result.as_json())


def test_latency_tells_the_first_token_from_the_others(settings: Settings) -> None:
    slow = settings.model_copy(update={"device_opt": ("null.step_ms=4",)})
    result = run(Workload(kind="latency", num_prompts=3, input_len=(8, 8), output_len=(5, 5)), slow)
    assert {figure.name: len(figure.values) for figure in result.figures} == {
        "time to first token": 3, "time between tokens": 12, "time of a request": 3, "decode": 1,
    }  # fmt: skip
    assert result.value("time of a request") >= 5 * 4
    assert all(figure.percentile(50) <= figure.percentile(99) for figure in result.figures)


def test_a_shared_prefix_is_found_in_the_cache_and_only_there(settings: Settings) -> None:
    narrow = settings.model_copy(update={"chunked_prefill_size": 40})
    result = run(Workload(kind="prefix", num_prompts=6, input_len=(40, 40), output_len=(2, 2), shared_len=32), narrow)
    assert result.value("prompt tokens from the cache") == pytest.approx(5 * 32 / (6 * 40), abs=0.14)
    assert result.value("times as fast") > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_prompts": 0}, "--num-prompts 0"),
        ({"request_rate": 0.0}, "--request-rate"),
        ({"input_len": (9, 3)}, "--input-len 9:3"),
        ({"output_len": (0, 3)}, "--output-len 0:3"),
        ({"kind": "prefix", "shared_len": 512}, "--shared-len 512"),
        ({"base_url": "http://x"}, "--base-url: only --workload online"),
        ({"kind": "online", "base_url": "x:3"}, "--base-url x:3: write it as http://host:port"),
        ({"input_len": (255, 255), "output_len": (2, 2)}, "make 257 tokens, the model takes 256"),
    ],
)
def test_workloads_that_cannot_be_are_refused(settings: Settings, changes: Any, named: str) -> None:
    with pytest.raises(InvalidSettings, match=named):
        run(Workload(**changes), settings)


def test_requests_and_arrivals_can_be_repeated() -> None:
    workload = Workload(kind="prefix", num_prompts=4, input_len=(50, 60), shared_len=40, request_rate=100)
    one, again, other = workload.requests(300, 1), workload.requests(300, 1), workload.requests(300, 2)
    assert one == again != other
    assert len({tuple(request.prompt[:40]) for request in one}) == 1
    assert len({tuple(request.prompt[40:]) for request in one}) == 4
    assert all(10 <= token < 300 for request in one for token in request.prompt)
    assert workload.arrivals()[0] == 0.0
    assert workload.arrivals() == sorted(workload.arrivals())
    assert Workload(request_rate=float("inf")).arrivals() == [0.0] * 64
    assert parse_lengths("7") == (7, 7)
    assert parse_lengths("7:9") == (7, 9)


class Stub(BaseHTTPRequestHandler):
    """As much of an OpenAI-compatible server as a benchmark needs; every third request breaks off."""

    seen: list[dict[str, Any]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        known = {"/v1/models": {"data": [{"id": "stub"}]}}
        self._answer(200 if self.path in known else 404, known.get(self.path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({**body, "key": self.headers["Authorization"]})
        if len(body["prompt"]) == 13:
            return self._answer(400, {"error": {"message": "unlucky"}})
        self.send_response(200)
        self.end_headers()
        for _ in range(body["max_tokens"]):
            self._event({"choices": [{"text": "x"}]})
        if len(body["prompt"]) == 12:
            return None  # the connection just ends
        self._event({"choices": [], "usage": {"completion_tokens": body["max_tokens"] * 2}})
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _event(self, event: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[str]:
    Stub.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()
        thread.join()


def online(server: str, **changes: Any) -> Workload:
    values = {"num_prompts": 5, "input_len": (4, 9), "output_len": (3, 3), "request_rate": 500.0} | changes
    return Workload(kind="online", base_url=server, **values)


def test_online_streams_and_counts_what_the_server_counts(server: str) -> None:
    result = run(online(server), Settings(api_key="secret"))
    assert result.value("failed requests") == 0
    assert result.value("output throughput") * result.value("duration") == pytest.approx(5 * 6)
    assert len(next(figure for figure in result.figures if figure.name == "time to first token").values) == 5
    assert len(Stub.seen) == 7  # two to warm up
    assert {request["key"] for request in Stub.seen} == {"Bearer secret"}
    assert all(request["ignore_eos"] and request["stream"] and request["model"] == "stub" for request in Stub.seen)


def test_online_reports_requests_that_fail_and_those_cut_short(server: str) -> None:
    result = run(online(server, input_len=(11, 13), num_prompts=24, warmup=False), Settings())
    assert result.value("failed requests") == len(result.errors) > 0
    assert any("400" in error and "unlucky" in error for error in result.errors)
    assert any("ended before its [DONE]" in error for error in result.errors)
    with pytest.raises(ZifError, match="all 24 requests failed; the first said: 400"):
        run(online(server, input_len=(13, 13), num_prompts=24, warmup=False), Settings())


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--workload", "online", "--base-url", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_the_command_prints_a_table_or_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", str(settings.model), "--load-format", "dummy", "--device", "null", "--max-total-tokens", "2048"]
    command += ["--num-prompts", "3", "--input-len", "4:9", "--output-len", "2"]
    assert main(command) == 0
    assert "output throughput" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["input_len"] == [4, 9]


def test_an_own_server_gets_the_same_settings() -> None:
    given = Settings(
        model="m", page_size=4, disable_radix_cache=True, kernel={"rope": "x"}, device_opt=("a.b=c",), port=9
    )
    assert flags(given) == [
        "--device-opt=a.b=c", "--disable-radix-cache", "--kernel=rope=x", "--model=m", "--page-size=4",
    ]  # fmt: skip


def test_a_plot_is_drawn_or_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result("latency", {"model": "m", "device": "null"})
    result.add("time", "ms", [1.0, 2.0, 3.0])
    result.add("rate", "1/s", 4.0)
    result.add("nothing", "ms", [])
    assert [figure.name for figure in result.figures] == ["time", "rate"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ZifError, match=r"--plot needs matplotlib.*pip install matplotlib"):
        plot(result, tmp_path / "figures.png")
    monkeypatch.undo()
    pytest.importorskip("matplotlib", reason="an extra")
    plot(result, tmp_path / "figures.svg")
    assert "time" in (tmp_path / "figures.svg").read_text()
    with pytest.raises(ZifError, match="--plot"):
        plot(result, tmp_path / "figures.docx")
