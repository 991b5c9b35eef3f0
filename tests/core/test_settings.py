"""One settings model: sources and their precedence, and messages that name the flag at fault."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from zif.contract.errors import InvalidSettings
from zif.settings import Settings


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zif.toml"
    file.write_text('page-size = 8\nmax_running_requests = 8\nport = 8\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("ZIF_MAX_RUNNING_REQUESTS", "9")
    monkeypatch.setenv("ZIF_PORT", "9")
    settings = Settings(config=file, port="10")
    assert (settings.page_size, settings.max_running_requests, settings.port) == (8, 9, 10)
    assert settings.host == "0.0.0.0"
    assert settings.schedule_policy == "lpm"


def test_the_file_can_be_named_by_the_environment_and_be_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zif.yaml"
    file.write_text("device-opt: [cpu.threads=2]\nkernel: {rms_norm: torch_reference}\ndisable-radix-cache: true\n")
    monkeypatch.setenv("ZIF_CONFIG", str(file))
    settings = Settings()
    assert settings.device_opt == ("cpu.threads=2",)
    assert settings.kernel == {"rms_norm": "torch_reference"}
    assert settings.disable_radix_cache is True


def test_lists_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIF_DEVICE_OPT", "cpu.threads=2,cpu.x=y")
    monkeypatch.setenv("ZIF_KERNEL", "rms_norm=a,linear=b.c")
    assert Settings().device_opt == ("cpu.threads=2", "cpu.x=y")
    assert Settings().kernel == {"rms_norm": "a", "linear": "b.c"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"page_size": "0"}, r"^--page-size '0': input should be greater than 0$"),
        ({"port": "x"}, r"^--port 'x': input should be a valid integer"),
        ({"dtype": "fp8"}, r"^--dtype 'fp8': input should be 'auto', 'bfloat16'"),
        ({"mem_fraction_static": 1.5}, r"^--mem-fraction-static 1\.5: input should be less than 1"),
        ({"chunked_prefill_size": 0}, r"^--chunked-prefill-size 0: must be -1"),
        ({"kernel": ["rms_norm"]}, r"^--kernel \['rms_norm'\]: 'rms_norm' is not op=name"),
        ({"pagesize": 1}, r"^unknown setting 'pagesize': did you mean 'page_size'\?"),
        ({"page_size": 0, "port": -1}, r"--page-size.*; --port"),
    ],
)
def test_wrong_values_name_their_flag(values: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message) as error:
        Settings(**values)
    assert len(str(error.value).splitlines()) == 1


def test_a_wrong_value_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "zif.yaml"
    file.write_text("page_size: none\n")
    with pytest.raises(InvalidSettings, match=r"--page-size 'none' \(from the settings file\)"):
        Settings(config=file)
    monkeypatch.setenv("ZIF_PAGE_SIZE", "-1")
    with pytest.raises(InvalidSettings, match=r"--page-size '-1' \(from ZIF_PAGE_SIZE\)"):
        Settings(config=file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.yaml", None, "No such file"),
        ("a.yaml", "- 1\n", "holds a list, not a table"),
        ("b.yaml", "{", "while parsing"),
        ("c.toml", "page_size = ", "Invalid value"),
        ("d.yaml", "pgae_size: 1\n", "unknown setting 'pgae_size'"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidSettings, match=message):
        Settings(config=tmp_path / name)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    assert Settings(config=tmp_path / "empty.yaml").port == Settings().port


def test_the_api_key_is_not_shown() -> None:
    settings = Settings(api_key="s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in settings.model_dump_json()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    with pytest.raises(InvalidSettings, match=r"^--api-key: "):
        Settings(api_key="")


def test_kubernetes_link_to_a_service_called_zif_is_no_port(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZIF_PORT", "tcp://10.96.0.17:30000")
    assert Settings().port == 30000
    assert "ZIF_PORT=tcp://10.96.0.17:30000 is ignored" in caplog.text
    (tmp_path / "zif.toml").write_text("port = 8\n")
    assert Settings(config=tmp_path / "zif.toml").port == 8
    with pytest.raises(InvalidSettings, match=r"^--port 'tcp://x': "):
        Settings(port="tcp://x")
    monkeypatch.setenv("ZIF_PORT", "many")
    with pytest.raises(InvalidSettings, match=r"^--port 'many' \(from ZIF_PORT\)"):
        Settings()


def test_settings_cross_processes_whole() -> None:
    settings = Settings(page_size=4, kernel={"a": "b"}, api_key="k")
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_every_setting_has_a_description() -> None:
    assert [name for name, info in Settings.model_fields.items() if not info.description] == []
