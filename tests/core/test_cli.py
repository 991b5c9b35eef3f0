"""The command line: exit codes, one readable line for a failure, and no heavy import where none is needed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest

from zif.cli import main as cli
from zif.cli.foreign import ADVICE
from zif.cli.output import format_table
from zif.contract.errors import NoUsableDevice
from zif.frontend.output import Choice, Completion, Delta
from zif.settings import Settings, flag_of

FRAMEWORKS = ("torch", "jax", "transformers", "fastapi", "pydantic")


def imported_after(code: str) -> list[str]:
    """Which of FRAMEWORKS a fresh interpreter has imported after ``code``."""
    code += f"\nimport sys; print([n for n in {FRAMEWORKS} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    found: list[str] = json.loads(done.stderr.replace("'", '"'))
    return found


class FakeLLM:
    """Answers with the prompt, a piece a word."""

    seen: Any = None
    settings: Any = None
    params: Any = None
    frontend = types.SimpleNamespace(
        model=types.SimpleNamespace(sampling_defaults={"temperature": 0.5, "top_k": 9}),
        tokenizer=types.SimpleNamespace(chat_template=None),
    )

    def __init__(self, **settings: Any) -> None:
        type(self).settings = settings

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stream(self, prompt: Any, params: Any) -> Any:
        type(self).seen, type(self).params = copy.copy(prompt), params
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return iter([Delta(0, 0, text=word) for word in text.split()])

    def generate(self, prompts: Sequence[Any], params: Any) -> list[Completion]:
        return [Completion([1], [Choice(0, text=f"<{prompt}>", token_ids=[2, 3])]) for prompt in prompts]

    async def achat(self, messages: Any, params: Any) -> Completion:
        return self.generate([messages[-1]["content"]], params)[0]


@pytest.fixture
def fake_llm(monkeypatch: pytest.MonkeyPatch) -> type[FakeLLM]:
    module = types.ModuleType("zif.llm")
    module.LLM = FakeLLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zif.llm", module)
    return FakeLLM


def test_devices_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["device", "status", "from", "memory", "detail"]
    assert any(row.startswith("cpu ") and " available " in row for row in rows)


def test_devices_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    (cpu,) = [entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == "cpu"]
    assert cpu["status"] == "available"
    assert cpu["devices"][0]["memory_bytes"] > 0
    assert cpu["options"][0]["name"] == "threads"


@pytest.mark.parametrize(
    "code", ["import zif", "from zif.cli.main import main; main(['devices'])", "import zif.contract.hookspecs"]
)
def test_no_framework_is_imported(code: str) -> None:
    assert imported_after(code) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("zif 0.")


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "zif", "nonsense"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: argument COMMAND: invalid choice: 'nonsense'")


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: zif {command}" in capsys.readouterr().out


def test_serve_has_a_flag_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    out = capsys.readouterr().out
    assert [name for name in Settings.model_fields if flag_of(name) not in out] == []


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "error: the following arguments are required: COMMAND"),
        (["serv"], "error: argument COMMAND: invalid choice: 'serv'"),
        (["serve", "--page-sise", "3"], "error: unknown argument --page-sise: did you mean --page-size?"),
        (["generate", "--temperature", "hot"], "error: argument --temperature: invalid float value: 'hot'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out) == (2, "")
    assert captured.err.startswith(line)
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "line", "code"),
    [
        (["serve", "--page-size", "0"], "error: --page-size '0': input should be greater than 0", 2),
        (["serve", "a", "--model", "b"], "error: the model is given twice: a and --model b", 2),
        (["serve", "--config", "/nowhere.yaml"], "error: --config /nowhere.yaml: ", 2),
        (["devices", "--device-opt", "cpu.threads"], "error: --device-opt cpu.threads: write it as", 2),
        (["devices", "--ops", "toaster"], "error: --device toaster: no installed plugin provides it", 1),
        (["generate", "-p", "x", "--top-p", "2"], "error: top_p", 1),
        (["generate", "--file", "/nowhere"], "error: [Errno 2] No such file", 1),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    argv: list[str], line: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (NoUsableDevice("no card"), 1, "error: no card"),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x' (--log-level debug prints the traceback)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_a_command_raises(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise raised

    monkeypatch.setattr("zif.cli.devices.run", run)
    assert cli.main(["devices"]) == code
    assert capsys.readouterr().err.strip() == line


def test_a_traceback_comes_after_the_line_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zif.cli.devices.run", lambda _: {}["missing"])
    assert cli.main(["devices", "--log-level", "debug"]) == 1
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "error: unexpected KeyError: 'missing'"
    assert second.startswith("Traceback")


def test_a_reader_that_leaves_is_no_failure_to_report() -> None:
    code = "import sys; from zif.cli.main import main; sys.exit(main(['devices', '--json']))"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 if it had written all before the reader left


def test_generate_streams_one_prompt(fake_llm: type[FakeLLM], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "-p", "a b c"]) == 0
    assert capsys.readouterr().out == "abc\n"
    assert cli.main(["generate", "--chat", "-p", "a b"]) == 0
    assert fake_llm.seen == [{"role": "user", "content": "a b"}]


@pytest.mark.parametrize(
    ("argv", "model", "seen"),
    [
        (["What is 3 + 4?"], None, "What is 3 + 4?"),
        (["Hello"], None, "Hello"),
        (["org/model", "Hello"], "org/model", "Hello"),
        (["./model", "-p", "Hello"], "./model", "Hello"),
        (["--model", "org/model", "Why?"], "org/model", "Why?"),
    ],
)
def test_a_prompt_is_told_from_a_model(
    argv: list[str], model: str | None, seen: str, fake_llm: type[FakeLLM], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", *argv]) == 0
    assert fake_llm.seen == seen
    assert fake_llm.settings.get("model") == model


def test_a_chat_model_is_sent_a_message_unless_its_text_is_to_be_continued(
    fake_llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake_llm.frontend.tokenizer, "chat_template", object())
    assert cli.main(["generate", "Why?"]) == 0
    assert fake_llm.seen == [{"role": "user", "content": "Why?"}]
    assert cli.main(["generate", "--no-chat", "Why?"]) == 0
    assert fake_llm.seen == "Why?"
    monkeypatch.setattr(fake_llm, "stream", lambda *_: iter(()))
    assert cli.main(["generate", "--no-chat", "Why?"]) == 0
    assert "ended at once, without a word: a chat model, maybe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--max-model-len", "512"], "context_length", "512"),
        (["--ctx-size", "512"], "context_length", "512"),
        (["--tensor-parallel-size=2"], "tp_size", "2"),
        (["--gpu-memory-utilization", "0.5"], "mem_fraction_static", "0.5"),
        (["--max-num-seqs", "8"], "max_running_requests", "8"),
        (["--model-path", "org/model"], "model", "org/model"),
    ],
)
def test_other_servers_flags_are_taken(
    flags: list[str], name: str, value: str, fake_llm: type[FakeLLM], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", *flags, "-p", "x"]) == 0
    assert fake_llm.settings[name] == value


@pytest.mark.parametrize("flag", ["--trust-remote-code", "-ngl", "--n-gpu-layers", "--quantization", "-c", "--seed"])
def test_other_servers_flags_that_mean_nothing_here_are_explained(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", flag, "99"])
    assert stop.value.code == 2
    assert f"error: unknown argument {flag}, which other servers have: {ADVICE[flag]}" in capsys.readouterr().err


def test_no_flag_is_both_taken_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    words = set(capsys.readouterr().out.replace(",", " ").split())
    assert words & ADVICE.keys() <= {"-c", "-m", "-t"}


def test_flags_win_over_the_model_s_own_sampling(fake_llm: type[FakeLLM]) -> None:
    assert cli.main(["generate", "some/model", "--page-size", "4", "-p", "a", "--temperature", "0", "--stop", "x"]) == 0
    assert (fake_llm.params.temperature, fake_llm.params.top_k, fake_llm.params.stop) == (0.0, 9, ("x",))
    assert fake_llm.settings["model"] == "some/model"
    assert fake_llm.settings["page_size"] == "4"


def test_several_prompts_can_be_messages(fake_llm: type[FakeLLM], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "--chat", "-p", "a", "-p", "b"]) == 0
    assert capsys.readouterr().out == "<a>\n\n<b>\n"


def test_generate_prints_json(fake_llm: type[FakeLLM], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "-p", "a", "-p", "b", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["prompt"], first["text"], second["completion_tokens"]) == ("a", "<a>", 2)


def test_chat_keeps_the_conversation_until_it_is_reset(
    fake_llm: type[FakeLLM], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hello there", "", "/reset", "again", "more", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert cli.main(["chat", "--system", "be brief"]) == 0
    assert capsys.readouterr().out.splitlines() == ["hellothere", "again", "more"]
    assert [message["content"] for message in fake_llm.seen] == ["be brief", "again", "again", "more"]


def test_tables_align_numbers_right_and_show_none_as_a_dash() -> None:
    assert format_table([{"op": "add", "ms": 1.5}, {"op": "attention", "ms": None}]).splitlines() == [
        "op          ms",
        "add        1.5",
        "attention    -",
    ]


def test_warmup_runs_each_kind_of_step_and_says_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warmup", "--device", "null", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["seconds"]) == ["loading", "prefill steps", "mixed steps", "samplers"]
    assert report["programs"] > 10
    assert report["cache"].endswith("zif")
    assert cli.main(["warmup", "--device", "null"]) == 0
    assert "mixed steps" in capsys.readouterr().out
