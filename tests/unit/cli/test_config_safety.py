"""Class paths from outside are refused before anything imports them; so is YAML that is no plain mapping."""

from __future__ import annotations

import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.named_configs import config_folder, list_configs
from petl_bench.errors import UsageError
from petl_bench.storage.plain_yaml import parse_yaml


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `outside_module` on the path; the file that importing it would create."""
    trace = tmp_path / "imported"
    (tmp_path / "outside_module.py").write_text(f"open({str(trace)!r}, 'w').close()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return trace


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*arguments: str, plugins: tuple[str, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        ClassPathGuard(plugins).check_arguments(arguments)
    return one_line(caught.value)


def file_refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        ClassPathGuard().read(path)
    return one_line(caught.value)


def one_line(error: UsageError) -> str:
    assert "\n" not in str(error)
    return str(error)


ARGUMENTS = [
    ("--model", "unknown_package.Method"),
    ("--model=unknown_package.Method",),
    ("--data", "unknown_package.Data"),
    ("--model.class_path", "unknown_package.Method"),
    ("--model.init_args.backbone=unknown_package.Backbone",),
    ("--model.task", "unknown_package.Task"),
    ("--model.init_args.optimizer.class_path=unknown_package.Recipe",),
    ('--model={"class_path": "unknown_package.Method"}',),
    ("--trainer.callbacks", "[{class_path: unknown_package.Callback}]"),
    ("--trainer.logger={init_args: {x: [{class_path: unknown_package.Logger}]}}",),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_class_path_from_outside(arguments: tuple[str, ...]) -> None:
    message = refusal("fit", "--config", "msrvtt_full", *arguments)
    assert "unknown_package." in message
    assert message.startswith(arguments[0].split("=")[0])
    assert message.endswith("add --plugins unknown_package")
    ClassPathGuard(["unknown_package"]).check_arguments(arguments)


@pytest.mark.parametrize(
    "argument", ["--trainer.logger=", "--trainer.callbacks+=", "--trainer.plugins=", "--anything.init_args.x="]
)
@pytest.mark.parametrize("value", ["outside_module.X", "[outside_module.X]", "{x: outside_module.a.X}"])
def test_short_form_wherever_it_stands(argument: str, value: str, outside: Path) -> None:
    assert "outside_module." in refusal(argument + value)
    assert not outside.exists()


@pytest.mark.parametrize("value", ["os.system", "subprocess.run", "builtins.eval"])
def test_standard_library_is_outside(value: str) -> None:
    assert value in refusal(f"--trainer.callbacks={value}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "AdaptFormer"),
        ("--model", "methods.adaptformer.AdaptFormer"),
        ("--data", "datamodules.msrvtt.MSRVTT"),
        ("--model", "model.yaml"),
        ("--model.init_args.optimizer", "petl_bench.optimizers.AdamWCosine"),
        ("--trainer.logger", "pytorch_lightning.loggers.CSVLogger"),
        ("--trainer.callbacks", "[{class_path: torch.nn.Identity}]"),
        ("--trainer.precision", "bf16-mixed"),
        ("--data.init_args.test_list", "test.csv"),  # Python has a package `test`
        ("--data.init_args.captions_file", "MSRVTT_data.json"),
        ("--data.init_args.root", "/data/os.d/x"),
        ("--data.init_args.root", "../msrvtt.v2"),
        ("--model.init_args.scale", "0.1"),
        ("--runs_dir", "runs.old"),
        ("--overwrite",),
    ],
    ids=" ".join,
)
def test_what_is_ours_or_no_class_path(arguments: tuple[str, ...]) -> None:
    ClassPathGuard().check_arguments(arguments)


@pytest.mark.parametrize(
    "text",
    [
        "model: {class_path: outside_module.Method}",
        "model:\n  init_args:\n    backbone: outside_module.Backbone\n",
        "trainer:\n  callbacks:\n    - outside_module.Callback\n",
        "trainer:\n  callbacks:\n    - class_path: outside_module.Callback\n",
        "a: &x {class_path: outside_module.Method}\nmodel:\n  <<: *x\n",
        "model: outside_module.yaml\n",
    ],
)
def test_file_with_a_class_path_from_outside(text: str, tmp_path: Path, outside: Path) -> None:
    path = write(tmp_path, text)
    message = file_refusal(path)
    assert message.startswith(str(path))
    assert "outside_module." in message
    assert not outside.exists()
    assert "outside_module" not in sys.modules
    if ".yaml" not in text:
        ClassPathGuard(["outside_module"]).read(path)


def test_a_class_path_of_several_lines_is_told_in_one(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("model: {class_path: 'os.system\n\n  b', init_args: {}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"class path 'os.system\\nb' is from outside; .* --plugins os$") as caught:
        ClassPathGuard().read(path)
    assert "\n" not in str(caught.value)
    path.write_text("model: {class_path: 'a\n\n  b.c', init_args: {}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is from outside$"):
        ClassPathGuard().read(path)


def test_included_file_is_checked(tmp_path: Path) -> None:
    inner = write(tmp_path, "class_path: unknown_package.Method\n", "inner.yaml")
    outer = write(tmp_path, "model: middle.yaml\n", "outer.yaml")
    write(tmp_path, "init_args: {backbone: inner.yaml}\n", "middle.yaml")
    assert file_refusal(outer).startswith(str(inner))


def test_a_file_of_answers_is_no_configuration(tmp_path: Path) -> None:
    """It may be large, and holds words that look like class paths."""
    answers = tmp_path / "train_qa.json"
    answers.write_text('[{"question": "what?", "answer": "os.system"}]', encoding="utf-8")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {{task: {{answer_list: {answers}}}}}\n", encoding="utf-8")
    ClassPathGuard().read(config)
    config.write_text(f"model: {{task: {answers}}}\n", encoding="utf-8")
    assert "os.system" in file_refusal(config)


def test_files_that_include_each_other(tmp_path: Path) -> None:
    path = write(tmp_path, "model: second.yaml\n", "first.yaml")
    write(tmp_path, "model: first.yaml\n", "second.yaml")
    assert "includes itself" in file_refusal(path)


def included(text: str, folder: Path) -> Any:
    """What a configuration holds once the files it includes are in their places."""
    return yaml.safe_load(ClassPathGuard().read(write(folder, text)))


@pytest.mark.parametrize("name", ["mine.yaml", "sub/mine.yml", "mine.json"])
@pytest.mark.parametrize("key", ["trainer", "data", "model", "backbone", "task", "optimizer", "logger"])
def test_file_in_the_place_of_a_group_or_a_class(name: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, '{"init_args": {"x": 1}}', name)
    text = f"{key}: {name}\n" if key in ("trainer", "data", "model") else f"model: {{init_args: {{{key}: {name}}}}}\n"
    found = included(text, tmp_path)
    assert found.get(key, found.get("model", {}).get("init_args", {}).get(key)) == {"init_args": {"x": 1}}


def test_packaged_fragments_and_those_of_fragments(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", "init_args: {backbone: backbone/clip_tiny.yaml, task: own.yaml}\n", "mine.yaml")
    write(tmp_path / "model", "class_path: petl_bench.tasks.retrieval.Retrieval\n", "own.yaml")
    write(tmp_path, "class_path: pytorch_lightning.callbacks.ModelSummary\n", "early.yaml")
    found = included("model: model/mine.yaml\ntrainer: {callbacks: [early.yaml]}\n", tmp_path)
    assert found["model"]["init_args"]["backbone"]["init_args"]["architecture"] == "tiny"
    assert found["trainer"] == {"callbacks": [{"class_path": "pytorch_lightning.callbacks.ModelSummary"}]}
    assert found["model"]["init_args"]["task"] == {"class_path": "petl_bench.tasks.retrieval.Retrieval"}


OPTIONS_OF_DATA = ("train_file", "captions_file", "karpathy_file", "test_list", "model", "task", "anything")


def test_options_that_name_files_of_data_stay_as_they_are(tmp_path: Path) -> None:
    """Whatever lies beside the configuration: large, damaged, no file at all, or one that never ends."""
    (tmp_path / "large.json").write_text("[" + '{"a": "os.system"},' * 400_000 + "1]", encoding="utf-8")
    (tmp_path / "binary.json").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    write(tmp_path, "class_path: unknown_package.Method\n", "fragment.yaml")
    names = ("large.json", "binary.json", "folder.json", "pipe.json", "fragment.yaml")
    for name in names:
        options: dict[str, Any] = {**dict.fromkeys(OPTIONS_OF_DATA, name), "files": {"train": name}}
        whole = {
            "data": {"init_args": options},
            "model": {"init_args": {"vocabulary": name, "task": {"init_args": {"answer_list": name}}}},
        }
        started = time.perf_counter()
        assert included(yaml.safe_dump(whole), tmp_path) == whole
        assert time.perf_counter() - started < 5  # parsing the large one takes a minute


@pytest.mark.parametrize("key", ["data", "model"])
def test_file_that_is_no_configuration_is_named(key: str, tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text("[" + "1," * 1_000_000 + "1]", encoding="utf-8")
    message = file_refusal(write(tmp_path, f"{key}: large.json\n"))
    assert message.startswith(f"{tmp_path / 'large.json'} (2,000,003 bytes) is too large for a configuration")
    assert "large.json" in file_refusal(tmp_path / "large.json")
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "no file 'pipe.yaml'" in file_refusal(write(tmp_path, f"{key}: pipe.yaml\n"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml" in file_refusal(write(tmp_path, f"{key}: binary.yaml\n"))


def test_group_that_is_none(tmp_path: Path) -> None:
    """jsonargparse would open a file of that name."""
    assert "trainer 'cpu' is no group of options" in file_refusal(write(tmp_path, "trainer: cpu\n"))
    with pytest.raises(UsageError, match="--trainer 'cpu' is no group of options"):
        ClassPathGuard().with_fragments(["--trainer=cpu"])
    ClassPathGuard().with_fragments(["--trainer={max_epochs: 3}", "--trainer.accelerator=cpu"])


def test_missing_fragment_suggests_close_names(tmp_path: Path) -> None:
    message = file_refusal(write(tmp_path, "model: {init_args: {backbone: backbone/clip_tinny.yaml}}\n"))
    assert "'backbone/clip_tinny.yaml'" in message
    assert "did you mean backbone/clip_tiny.yaml" in message


def test_architecture_beside_the_configuration(tmp_path: Path) -> None:
    """Its file belongs to the configuration; a name is that of a known one."""
    write(tmp_path, "{}", "mine.json")
    backbone = included("model: {init_args: {backbone: {init_args: {architecture: mine.json}}}}", tmp_path)
    assert str(tmp_path / "mine.json") in str(backbone)
    assert included("architecture: tiny", tmp_path) == {"architecture": "tiny"}
    assert included("architecture: other.json", tmp_path) == {"architecture": "other.json"}


def test_numbers_and_text_stay_what_they_were(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: '1e-3'\nc: 2024-01-01\nd: \"on\"\ne: on\nf: &x {g: 0x10}\nh: *x\ni: {<<: *x, j: null}\n"
    read = ClassPathGuard().read(write(tmp_path, text))
    assert yaml.safe_load(read) == yaml.safe_load(text)
    assert [t.value for t in yaml.scan(read) if isinstance(t, yaml.ScalarToken) and not t.plain] == ["1e-3", "on"]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{n}: &{n} [{', '.join(f'*{m}' for _ in range(10))}]\n" for m, n in pairwise("abcdefghi")),
        "a: &a {b: *a}\n",
        "a: " + "[" * 2000 + "]" * 2000 + "\n",
    ],
    ids=["unfolds", "contains itself", "deep"],
)
def test_few_lines_that_unfold_to_many(text: str, tmp_path: Path) -> None:
    assert str(tmp_path) in file_refusal(write(tmp_path, text))


def test_files_in_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "class_path: methods.linear.Linear\ninit_args:\n  task: task/retrieval.yaml\n", "mine.yaml")
    arguments = [
        *("--model=mine.yaml", "--trainer", "trainer/fixture.yaml", "--data.init_args.train_file=mine.yaml"),
        *("--data.init_args.model", "mine.yaml", "--model.init_args.scale", "3", "--overwrite"),
    ]
    found = ClassPathGuard().with_fragments(arguments)
    model = yaml.safe_load(found[0].removeprefix("--model="))
    assert model["init_args"]["task"]["class_path"] == "petl_bench.tasks.retrieval.Retrieval"
    assert yaml.safe_load(found[2])["max_epochs"] == 2
    assert "\n" not in found[0] + found[2]
    assert [*found[:0], found[1], *found[3:]] == [arguments[1], *arguments[3:]]
    write(tmp_path, "class_path: unknown_package.Method\n", "foreign.yaml")
    with pytest.raises(UsageError, match="unknown_package"):
        ClassPathGuard().with_fragments(["--model.init_args.backbone", "foreign.yaml"])


WHOLE_CLIP, MOVED = "petl_bench.backbones.clip.WholeCLIP", "petl_bench.backbones.whole_clip.WholeCLIP"


def test_class_paths_of_earlier_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In files that are read, those they include, and arguments; each is told once."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, f"class_path: {MOVED}\ninit_args: {{architecture: RN50}}\n", "inner.yaml")
    path = write(tmp_path, "model: {init_args: {backbone: inner.yaml, lr: 1e-3}}\n")
    guard = ClassPathGuard()
    options = yaml.safe_load(guard.read(path))["model"]["init_args"]
    assert options == {
        "backbone": {"class_path": WHOLE_CLIP, "init_args": {"architecture": "RN50"}},
        "lr": "1e-3",
    }
    told = f"{MOVED} is read as {WHOLE_CLIP}"
    assert guard.translations == [f"{tmp_path / 'inner.yaml'} was written by an earlier version: {told}"]
    for given, meant in (
        ([f"--model.backbone={MOVED}"], [f"--model.backbone={WHOLE_CLIP}"]),
        (["--model.backbone.class_path", MOVED], ["--model.backbone.class_path", WHOLE_CLIP]),
        ([f"--model.backbone={{class_path: {MOVED}}}"], [f'--model.backbone={{"class_path": "{WHOLE_CLIP}"}}']),
    ):
        guard.translations.clear()
        assert guard.with_fragments(given) == meant
        assert guard.translations == [told]
    guard.translations.clear()
    unchanged = [f"--model.backbone={WHOLE_CLIP}", "--data.root", f"/{MOVED}", "--x={a: 1}"]
    assert guard.with_fragments(unchanged) == unchanged
    assert guard.translations == []


@pytest.mark.parametrize("name", list_configs())
def test_packaged_configurations_pass(name: str) -> None:
    ClassPathGuard().read(config_folder() / name)


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "3\n"])
def test_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    assert "empty" in file_refusal(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    ["a: [1,\n", "a: b: c\n", "\t- x\n", "a: !!python/object/apply:os.getcwd []\n", "a: 2024-99-99", "a: !!int x"],
)
def test_file_that_is_no_yaml(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert file_refusal(path).startswith(f"{path} is not valid YAML")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "model:\n  lr: 1\n  lr: 2\n", "{x: 1, x: 1}\n"])
def test_key_given_twice(text: str, tmp_path: Path) -> None:
    assert "occurs twice" in file_refusal(write(tmp_path, text))


def test_merged_mappings_are_no_keys_given_twice(tmp_path: Path) -> None:
    """One that is merged before its own parts are."""
    text = "b: &b {k: 2, l: 3}\nx: {a: &a {<<: *b, k: 1}}\nc: {<<: *a, l: 4}\nd: {<<: [*a, *b]}\n"
    merged = ClassPathGuard().read(write(tmp_path, text))
    value = yaml.safe_load(merged)
    assert value == yaml.safe_load(text)
    assert value["c"] == {"k": 1, "l": 4}
    assert parse_yaml(merged, "what was read") == value  # which refuses a key given twice


def test_unreadable_file(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in file_refusal(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert str(tmp_path / "bytes.yaml") in file_refusal(tmp_path / "bytes.yaml")


def test_broken_value_names_its_argument() -> None:
    assert refusal("--trainer.callbacks", "[{class_path: ").startswith("--trainer.callbacks is not valid YAML")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "{"], "--model"),
        (["--model={"], "--model"),
        (["{"], "argument '{'"),
        (["--trainer.max_epochs=3", "{"], "argument '{'"),
    ],
)
def test_broken_value_names_its_option_or_itself(arguments: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        ClassPathGuard().with_fragments(arguments)
    assert one_line(caught.value).startswith(f"{told} is not valid YAML")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: " + "[" * 5000, "nests too deeply"),
        ("a: !!int x", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("a: &a [*a]", "unfolds"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "unfolds"),
        ("a: \0", "a zero byte in line 1"),
        ("? {a: b}\n: c", "not valid YAML"),
    ],
)
def test_yaml_that_is_made_to_harm(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    message = file_refusal(path)
    assert told in message
    assert str(path) in message


def test_a_configuration_that_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes("a: b".encode("utf-16"))
    assert "UTF-16" in file_refusal(path)
    path.write_bytes(b"a: caf\xe9")
    assert "byte 6 is not UTF-8" in file_refusal(path)


def test_a_name_of_what_is_running_is_no_crash(tmp_path: Path) -> None:
    assert "__main__.a" in file_refusal(write(tmp_path, "a: __main__.a"))
