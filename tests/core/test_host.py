"""What the host offers: memory within a control group, and a place for caches even where there is no home."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from zif.reference import host

MIB = 2**20


@pytest.fixture
def control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(host, "CONTROL_GROUP", tmp_path)
    return tmp_path


def test_pages_of_files_that_are_not_in_use_are_free_memory(control_group: Path) -> None:
    (control_group / "memory.max").write_text(f"{32 * MIB}\n")
    (control_group / "memory.current").write_text(f"{30 * MIB}\n")
    assert host.host_memory().free == 2 * MIB
    (control_group / "memory.stat").write_text(f"anon 1\nfile {9 * MIB}\ninactive_file {8 * MIB}\nactive_file 5\n")
    assert (host.host_memory().total, host.host_memory().free) == (32 * MIB, 10 * MIB)


def test_without_a_limit_the_machine_s_memory_counts(control_group: Path) -> None:
    bare = host.host_memory().total
    (control_group / "memory.max").write_text("max\n")
    (control_group / "memory.current").write_text(f"{30 * MIB}\n")
    assert host.host_memory().total == bare > 32 * MIB


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a home: what a container with an arbitrary user id gives."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_caches_are_where_the_user_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert host.user_cache() == Path("/home/somebody/.cache")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert host.user_cache() == Path("/caches")


def test_without_a_home_caches_are_in_a_temporary_directory_of_the_user_s_alone(homeless: Path) -> None:
    directory = host.user_cache()
    assert directory.parent == homeless
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert host.user_cache() == directory


def test_a_directory_that_others_can_write_to_is_not_trusted(homeless: Path) -> None:
    host.user_cache().chmod(0o777)
    with pytest.raises(PermissionError, match="not a directory of this user's alone"):
        host.user_cache()


def test_a_directory_of_another_user_is_not_trusted(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = host.user_cache()
    other = ours.stat().st_uid + 1
    ours.rename(homeless / f"zif-{other}")
    monkeypatch.setattr("os.getuid", lambda: other)
    with pytest.raises(PermissionError, match="not a directory of this user's alone"):
        host.user_cache()


def test_a_link_laid_by_another_is_not_followed(homeless: Path) -> None:
    directory = host.user_cache()
    directory.rmdir()
    (homeless / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to(homeless / "elsewhere")
    with pytest.raises(PermissionError, match="not a directory of this user's alone"):
        host.user_cache()
