"""Where data are looked up, and how they are told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from gapbench.data import sources
from gapbench.data.sources import SOURCES, check_count, digest, find
from gapbench.records import InputError


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing reaches the hub; its cache is this folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def in_cache(cache: Path, name: str, *files: str, commit: str = "") -> Path:
    """Files of a task's data set as the hub's client keeps them, of the pinned commit or another that is now main."""
    source = SOURCES[name]
    place = cache / f"datasets--{source.repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit or source.revision)
    folder = place / "snapshots" / (commit or source.revision)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return folder


def test_the_users_folder_comes_first(hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache(hub_cache, "pope", "data/test-00000-of-00001.parquet")
    given, everything = tmp_path / "given", tmp_path / "everything"
    (everything / "pope").mkdir(parents=True)
    given.mkdir()
    monkeypatch.setenv("GAPBENCH_DATA", str(everything))
    assert find("pope", given).folder == given
    assert find("pope", None) == sources.Place(everything / "pope", "GAPBENCH_DATA")
    assert find("gqa", None).folder == everything


def test_then_the_cache_then_the_hub(hub_cache: Path) -> None:
    with pytest.raises(InputError, match=r"pope: no data here\. Give --data DIR .*`gapbench data fetch pope`"):
        find("pope", None, fetch=False)
    with pytest.raises(InputError, match=r"cannot fetch the data set .*/POPE .*HF_HUB_OFFLINE.*--data DIR"):
        find("pope", None)
    folder = in_cache(hub_cache, "pope", "data/test-00000-of-00001.parquet")
    assert find("pope", None).folder == folder
    assert find("pope", None).why == "cache of lmms-lab-encoder/POPE"


def test_only_the_pinned_commit_will_do(hub_cache: Path) -> None:
    assert {name for name, source in SOURCES.items() if not re.fullmatch("[0-9a-f]{40}", source.revision)} == {
        "flickr30k"  # of which no commit is known
    }
    in_cache(hub_cache, "pope", "data/test-00000-of-00001.parquet", commit="c" * 40)
    with pytest.raises(InputError, match="pope: no data here"):
        find("pope", None, fetch=False)


def test_a_cache_that_lacks_some_of_the_files_will_not_do(hub_cache: Path) -> None:
    in_cache(hub_cache, "gqa", "testdev_balanced_images/testdev-00000-of-00001.parquet")
    with pytest.raises(InputError, match="gqa: no data here"):
        find("gqa", None, fetch=False)


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--data .*absent: no such file or folder"):
        find("pope", tmp_path / "absent")
    monkeypatch.setenv("GAPBENCH_DATA", str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"GAPBENCH_DATA .*absent: no such file or folder"):
        find("pope", None)


def test_a_digest_tells_rows_apart() -> None:
    rows = [["1", "is it ¼?", None], ["2", "\u2028", ["a", "b"]]]
    assert digest(rows) == digest(iter(rows)) == digest([tuple(row) for row in rows])
    assert len({digest(rows), digest(rows[::-1]), digest(rows[:1]), digest([["1", "is it ¼?", ""], rows[1]])}) == 4


@pytest.mark.parametrize(
    ("found", "allow_partial", "message"),
    [
        (7, False, "f: 7 rows, the official data have 10; download them again, or measure what is there"),
        (12, True, "f: 12 rows, the official data have 10; download them again$"),
        (0, True, "f: no rows in it"),
    ],
)
def test_wrong_counts(found: int, allow_partial: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_count("f", "rows", found, 10, allow_partial)
    check_count("f", "rows", 7, 10, allow_partial=True)
    check_count("f", "rows", 10, 10, allow_partial=False)
