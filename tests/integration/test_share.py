"""A run is pushed to a stand-in for the Hub, and pulled: equal features, one line for what is not what was shared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants

import petl_bench
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.main import main
from petl_bench.report.collect import collect
from petl_bench.report.verification import verified
from petl_bench.runs.hub_adapters import MANIFEST_NAME
from petl_bench.storage.adapters import read_adapter, write_adapter
from petl_bench.storage.files import FileError, file_sha256
from tests.hub_server import Repository, StandIn, stand_in
from tests.integration.fixture_run import only_record, run

REPO = "someone/lora-fixture"
TEXTS = ["a red circle moves up", "a blue square"]


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert run("fit", "fixture_lora", dataset, runs) == 0
    return only_record(runs)[0]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture
def shared(hub: StandIn, finished: Path) -> Repository:
    petl_bench.push(finished, REPO)
    return hub.repositories[REPO]


def copied(run: Path, to: Path, **changes: Any) -> Path:
    """A run with other texts in the model block of its record."""
    shutil.copytree(run, to)
    record = json.loads((to / "result.json").read_text(encoding="utf-8"))
    record["model"] |= changes
    (to / "result.json").write_text(json.dumps(record), encoding="utf-8")
    return to


def below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


# --- there and back -----------------------------------------------------------------------------------------------


def test_what_is_pulled_is_what_was_pushed(
    hub: StandIn, finished: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(finished), "--repo", REPO]) == 0
    repository = hub.repositories[REPO]
    commit, files = repository.commits[-1]
    assert f"(private): commit {commit}" in capsys.readouterr().out
    assert repository.private
    assert len(repository.commits) == 2  # the Hub's own, and ours
    names = {"README.md", "adapter.safetensors", "config.yaml", "petl_bench.json", "ranks.npz", "result.json"}
    assert files.keys() == {".gitattributes", *names}
    assert not any(str(dataset).encode() in content or b"/tmp" in content for content in files.values())

    ours, theirs = petl_bench.load(finished), petl_bench.load(f"hf-hub:{REPO}@{commit}")
    clips = [str(path) for path in sorted((dataset / "videos").iterdir())[:2]]
    assert ours.encode_text(TEXTS).equal(theirs.encode_text(TEXTS))
    assert ours.encode_video(clips).equal(theirs.encode_video(clips))


def test_how_to_load_works_as_written(shared: Repository) -> None:
    card = shared.files["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["model"].encode_text(TEXTS).shape == (2, 64)


def test_an_adapter_of_the_hub_is_tested(
    shared: Repository, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    petl_bench.load(f"hf-hub:{REPO}")
    before = below(cache)
    told = ("--data.root", str(dataset), "--runs_dir", str(tmp_path / "mine"))
    assert main(["test", "--ckpt_path", f"hf-hub:{REPO}", *told]) == 0
    commit = shared.commits[-1][0]
    folder, record = only_record(tmp_path / "mine", "test.json")
    assert folder == tmp_path / "mine" / "hf-hub" / REPO / commit
    assert f"hf-hub:{REPO} is commit {commit}" in capsys.readouterr().err
    assert record["model"]["adapter_from"] == f"hf-hub:{REPO}@{commit}"
    assert record["model"]["trained"]["steps"] == 4
    trained = json.loads((finished / "result.json").read_text(encoding="utf-8"))
    assert record["eval"]["t2v"] == trained["eval"]["t2v"]
    assert below(cache) == before

    options: dict[str, Any] = {"root": str(dataset), "runs_dir": str(tmp_path / "again")}
    again = petl_bench.test(ckpt_path=f"hf-hub:{REPO}@main", **options)
    assert again is not None
    assert again["model"] == record["model"]


def test_a_report_takes_what_is_shared(shared: Repository, tmp_path: Path) -> None:
    for name, content in shared.files.items():
        (tmp_path / "pulled").mkdir(exist_ok=True)
        (tmp_path / "pulled" / name).write_bytes(content)
    found = verified(collect([tmp_path / "pulled"]), None)
    assert (len(found.runs), found.rejected) == (1, [])


def test_a_dry_run_writes_what_would_be_uploaded(shared: Repository, finished: Path, tmp_path: Path) -> None:
    done = petl_bench.push(finished, REPO, dry_run=tmp_path / "dry")
    there = {path.relative_to(tmp_path / "dry").as_posix(): path.read_bytes() for path in (tmp_path / "dry").rglob("*")}
    assert there == {name: content for name, content in shared.files.items() if name != ".gitattributes"}
    assert (done.commit, sorted(done.files)) == (None, sorted(there))
    with pytest.raises(UsageError, match="empty or not there"):
        petl_bench.push(finished, REPO, dry_run=tmp_path / "dry")


# --- once more ----------------------------------------------------------------------------------------------------


def test_a_push_again_changes_nothing_and_keeps_an_edited_card(
    shared: Repository, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = shared.commits[-1][0]
    assert main(["push", str(finished), "--repo", REPO]) == 0
    assert f"nothing has changed since commit {commit}" in capsys.readouterr().out
    shared.spoil("README.md", shared.files["README.md"] + b"\nmine\n")
    done = petl_bench.push(finished, REPO, license="mit", words=True)
    assert (done.kept, done.is_new) == (True, True)  # ranks have words now
    assert shared.files["README.md"].endswith(b"mine\n")
    assert petl_bench.push(finished, REPO, license="mit", replace=True).kept is False
    assert b"license: mit" in shared.files["README.md"]


def test_what_is_something_elses_is_left(shared: Repository, hub: StandIn, finished: Path, tmp_path: Path) -> None:
    hub.repositories["someone/thing"] = Repository(private=True)
    hub.repositories["someone/thing"].commit({".gitattributes": b"", "notes.txt": b"mine"})
    with pytest.raises(UsageError, match=r"holds something else \('notes.txt'\): --replace"):
        petl_bench.push(finished, "someone/thing")
    manifest = json.loads(shared.files[MANIFEST_NAME]) | {"run": "other-seed1"}
    shared.spoil(MANIFEST_NAME, json.dumps(manifest).encode())
    with pytest.raises(UsageError, match="holds run 'other-seed1', and this is"):
        petl_bench.push(finished, REPO)
    petl_bench.push(finished, "someone/thing", replace=True)
    assert hub.repositories["someone/thing"].files["notes.txt"] == b"mine"
    with pytest.raises(UsageError, match="is there and private, and you gave --public"):
        petl_bench.push(finished, REPO, public=True)
    shared.private = False
    with pytest.raises(UsageError, match="is there and public, and you gave no --public"):
        petl_bench.push(finished, REPO)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_what_cannot_be_shared(hub: StandIn, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "begun").mkdir()
    with pytest.raises(UsageError, match=r"no complete run: it has no result.json"):
        petl_bench.push(tmp_path / "begun", REPO)
    changed = copied(finished, tmp_path / "changed")
    (changed / "ranks.npz").write_bytes(b"")
    with pytest.raises(FileError, match=r"ranks.npz: is not the file the run wrote"):
        petl_bench.push(changed, REPO)
    untrained = copied(finished, tmp_path / "untrained", trainable_params=0)
    with pytest.raises(UsageError, match="nothing was trained"):
        petl_bench.push(untrained, REPO)
    for repo in ("lora", "a/b/c", "../x/y"):
        with pytest.raises(UsageError, match="owner/name"):
            petl_bench.push(finished, repo)
    with pytest.raises(CheckpointError, match=r"status 403: .*rights to create a model under the namespace"):
        petl_bench.push(finished, "stranger/lora")
    with pytest.raises(UsageError, match="count for none"):
        petl_bench.push(finished, REPO, benchmark="org/msrvtt:t2v")
    with pytest.raises(CheckpointError, match=r"status 400: .*license"):
        petl_bench.push(finished, REPO, license="my own")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match=r"`hf auth login`, or set HF_TOKEN$"):
        petl_bench.push(finished, REPO)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("adapter.safetensors", b"\x80\x04other", "adapter.safetensors has sha256"),
        ("config.yaml", b"trainer: {}", "config.yaml has sha256"),
        (MANIFEST_NAME, b"{", "cannot be read"),
        (
            MANIFEST_NAME,
            b'{"format": "petl_bench.hub/9"}',
            "is of format 'petl_bench.hub/9', not petl_bench.hub/1: update",
        ),
        (MANIFEST_NAME, b'{"format": "petl_bench.hub/1", "files": {"../../evil": "%s"}}' % (b"0" * 64), "'../../evil'"),
        (MANIFEST_NAME, b'{"format": "petl_bench.hub/1", "files": {"config.yaml": "../../x"}}', "no SHA-256 by name"),
        (MANIFEST_NAME, None, "it holds no petl_bench.json"),
        ("result.json", None, "result.json is named in petl_bench.json, and is missing"),
    ],
)
def test_what_is_not_what_was_shared(name: str, content: bytes | None, told: str, shared: Repository) -> None:
    files = {path: old for path, old in shared.files.items() if path != name}
    shared.commit(files if content is None else files | {name: content})
    with pytest.raises(CheckpointError) as caught:
        petl_bench.load(f"hf-hub:{REPO}")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_files_are_not_even_fetched(shared: Repository, hub: StandIn) -> None:
    foreign = dict.fromkeys(("evil.py", "last.ckpt", "sub/adapter.safetensors", "test.json"), b"\x80\x04evil")
    shared.commit(shared.files | foreign)
    petl_bench.load(f"hf-hub:{REPO}")
    assert not [path for _, path in hub.requests if path.rpartition("/resolve/")[2].partition("/")[2] in foreign]


def test_one_line_on_the_command_line(hub: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--adapter", "hf-hub:someone/none", "--video", "a.mp4", "what?"]) == CheckpointError.exit_code
    assert main(["test", "--ckpt_path", "hf-hub:../none"]) == UsageError.exit_code
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(
        "hf-hub:someone/none: 127.0.0.1: no such repository, or a private one that this token may not read"
    )
    assert "is no repository: give owner/name" in second


# --- the card -----------------------------------------------------------------------------------------------------


def test_markup_in_a_record_is_inert(hub: StandIn, finished: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> [x](javascript:alert(1))\n---\nlicense: mit\n# big ![i](http://x/y.png) | `"
    run = copied(finished, tmp_path / "evil", pretraining_data=evil, method=evil.replace("\n", " "))
    petl_bench.push(run, REPO)
    card = hub.repositories[REPO].files["README.md"].decode()
    _, front, page = card.split("---\n", 2)
    assert yaml.safe_load(front)["tags"][-1].startswith("<script>")  # a text of YAML, and nothing else
    assert "license" not in yaml.safe_load(front)
    assert "<script" not in page
    assert not re.search(r"(?<!\\)\]\(javascript|(?<!\\)!\[|http://", page)
    assert "\nlicense: mit" not in page


def test_figures_for_the_hub(hub: StandIn, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(finished, tmp_path / "measured")
    record = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(json.dumps(record | {"origin": "measured"}), encoding="utf-8")
    done = petl_bench.push(run, REPO, benchmark="org/msr-vtt:t2v", license="apache-2.0")
    files = hub.repositories[REPO].files
    (entry,) = yaml.safe_load(files[".eval_results/petl_bench.yaml"])
    assert entry["dataset"] == {"id": "org/msr-vtt", "task_id": "t2v"}
    assert entry["value"] == record["eval"]["t2v"]["R1"]
    assert entry["notes"].startswith("t2v R@1, protocol msrvtt-1kA-9k/v1, ")
    data: Any = ModelCard(files["README.md"].decode()).data
    found = {result.metric_name: result.metric_value for result in data.eval_results or ()}
    assert found["t2v R@1"] == record["eval"]["t2v"]["R1"]
    assert petl_bench.push(run, REPO, license="apache-2.0").commit != done.commit
    assert ".eval_results/petl_bench.yaml" not in hub.repositories[REPO].files


def test_a_hub_that_is_gone_costs_one_line(hub: StandIn, finished: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(
        PetlBenchError, match=r"^someone/lora-fixture: nothing was uploaded: 127.0.0.1: the connection is"
    ):
        petl_bench.push(finished, REPO)


def test_no_place_of_this_machine_is_shared(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "placed")
    adapter = read_adapter(run / "adapter.safetensors")
    weights = adapter.metadata["model"]["weights"]
    weights |= {"file": "ViT.pt", "place": "/home/alice/w/ViT.pt", "from_here": "../../../w/ViT.pt"}
    write_adapter(run / "adapter.safetensors", adapter)
    record = json.loads((run / "result.json").read_text(encoding="utf-8"))
    record["integrity"]["adapter_sha256"] = file_sha256(run / "adapter.safetensors")
    (run / "result.json").write_text(json.dumps(record), encoding="utf-8")
    petl_bench.push(run, REPO, dry_run=tmp_path / "dry")
    for path in (tmp_path / "dry").iterdir():
        assert b"alice" not in path.read_bytes()
    of_shared = read_adapter(tmp_path / "dry" / "adapter.safetensors")
    assert of_shared.metadata["model"]["weights"] == {"sha256": weights["sha256"], "file": "ViT.pt", "place": "ViT.pt"}
    assert all(of_shared.tensors[name].equal(tensor) for name, tensor in adapter.tensors.items())
    card = (tmp_path / "dry" / "README.md").read_text(encoding="utf-8")
    assert f'petl_bench.load("hf-hub:{REPO}", weights="WEIGHTS")' in card
    with pytest.raises(CheckpointError, match=r"'ViT.pt'\): none at .*dry/ViT.pt; say where: weights=PATH"):
        petl_bench.load(tmp_path / "dry")
