"""Packaged configurations by bare name; an existing file wins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from petl_bench.cli import named_configs
from petl_bench.cli.named_configs import config_folder, find_config, find_fragment, list_configs
from petl_bench.errors import UsageError
from petl_bench.renamed import CONFIGURATIONS


def test_lists_leaves_and_fragments() -> None:
    names = list_configs()
    assert names == sorted(names)
    assert {"msrvtt_adaptformer.yaml", "backbone/clip_vit_b16.yaml"} <= set(names)
    assert all((config_folder() / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("msrvtt_adaptformer", "msrvtt_adaptformer.yaml"),
        ("msrvtt_adaptformer.yaml", "msrvtt_adaptformer.yaml"),
        ("backbone/clip_tiny", "backbone/clip_tiny.yaml"),
    ],
)
def test_bare_name(name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == config_folder() / file


def test_own_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "msrvtt_adaptformer.yaml"
    own.write_text("a: 1\n", encoding="utf-8")
    assert find_config("msrvtt_adaptformer.yaml").resolve() == own
    assert find_config(str(own)) == own
    assert find_config("msrvtt_adaptformer") == config_folder() / "msrvtt_adaptformer.yaml"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text("a: 1\n", encoding="utf-8")
    assert find_config("~/own.yaml") == tmp_path / "own.yaml"


@pytest.mark.parametrize("name", ["msrvtt_adaptfromer", "msrvtt_adaptformr.yaml"])
def test_close_names_are_suggested(name: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*msrvtt_adaptformer\.yaml"):
        find_config(name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_of_a_name_that_is_gone_it_says_what_there_is_instead(name: str) -> None:
    assert name not in list_configs()
    for find in (find_config, lambda name: find_fragment(name, Path())):
        with pytest.raises(UsageError, match=f"{name} is gone: ") as caught:
            find(name)
        told = re.findall(r"[a-z]+/[a-z_]+\.yaml", str(caught.value).removeprefix(name).partition(": ")[2])
        assert told
        assert set(told) <= set(list_configs())
    with pytest.raises(UsageError, match="is gone"):
        find_config(name.removesuffix(".yaml"))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "."])
def test_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(UsageError):
        find_config(name)
    with pytest.raises(UsageError):
        find_fragment(f"{name}.yaml", Path())


def test_unlike_name_points_to_the_list() -> None:
    with pytest.raises(UsageError, match="petl-bench list configs"):
        find_config("qqqqqqqq")


def test_folder_is_no_configuration() -> None:
    with pytest.raises(UsageError):
        find_config("backbone")


@pytest.mark.parametrize("where", ["inside", "beside"])
def test_folder_in_or_beside_the_package(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "petl_bench"
    package.mkdir(parents=True)
    monkeypatch.setattr(named_configs, "__file__", str(package / "cli" / "named_configs.py"))
    with pytest.raises(UsageError, match="installation is incomplete"):
        config_folder()
    folder = (package if where == "inside" else package.parent) / "configs"
    (folder / "data").mkdir(parents=True)
    assert config_folder() == folder
