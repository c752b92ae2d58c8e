"""Class paths from outside are refused before anything imports them; so is YAML that is no plain mapping."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from petl_bench.config_safety import ClassPathGuard
from petl_bench.errors import UsageError
from petl_bench.named_configs import config_folder, list_configs


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
        ClassPathGuard().check_file(path)
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
    ClassPathGuard(["outside_module"]).check_file(path)


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
    ClassPathGuard().check_file(config)
    config.write_text(f"model: {{task: {answers}}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"train_qa\.json"):
        ClassPathGuard().check_file(config)


def test_files_that_include_each_other(tmp_path: Path) -> None:
    path = write(tmp_path, "model: second.yaml\n", "first.yaml")
    write(tmp_path, "model: first.yaml\n", "second.yaml")
    ClassPathGuard().check_file(path)


@pytest.mark.parametrize("name", list_configs())
def test_packaged_configurations_pass(name: str) -> None:
    ClassPathGuard().check_file(config_folder() / name)


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "3\n"])
def test_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    assert "empty" in file_refusal(write(tmp_path, text))


@pytest.mark.parametrize("text", ["a: [1,\n", "a: b: c\n", "\t- x\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_file_that_is_no_yaml(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert file_refusal(path).startswith(f"{path} is not valid YAML")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "model:\n  lr: 1\n  lr: 2\n", "{x: 1, x: 1}\n"])
def test_key_given_twice(text: str, tmp_path: Path) -> None:
    assert "stands twice" in file_refusal(write(tmp_path, text))


def test_unreadable_file(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in file_refusal(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert str(tmp_path / "bytes.yaml") in file_refusal(tmp_path / "bytes.yaml")


def test_broken_value_names_its_argument() -> None:
    assert refusal("--trainer.callbacks", "[{class_path: ").startswith("--trainer.callbacks is not valid YAML")


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
