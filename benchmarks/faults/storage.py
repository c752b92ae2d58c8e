"""F4, F5, F6, F8, F17, F18: full and lost disks, damaged and foreign files, changed runs, two runs in one place."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.trials import (
    HELD,
    PETL_BENCH,
    Bench,
    Ended,
    Trial,
    completed,
    first_problem,
    incomplete,
    loadable,
    refused,
    resumed,
)
from petl_bench.runs.record import SCHEMA
from petl_bench.storage.checkpoints import LAST


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F4", "disk full at the first checkpoint", partial(_full_disk, 0.5))
    yield Trial("F4", "disk full at a later checkpoint", partial(_full_disk, 2.5))
    yield Trial("F4", "disk full when the results are written", _full_for_results)
    yield Trial("F4", "TMPDIR full", _full_tmpdir)
    yield Trial("F4", "TMPDIR on another device", _other_tmpdir)
    yield Trial("F5", "runs_dir is a file", _runs_dir_is_a_file)
    yield Trial("F5", "runs_dir is read-only", _read_only_runs)
    yield Trial("F5", "adapter in a read-only folder", _read_only_adapter)
    yield Trial("F5", "folder removed during the run", _removed)
    for name, damage in _DAMAGES.items():
        yield Trial("F6", f"checkpoint {name}", partial(_damaged, damage))
    yield Trial("F6", "last damaged, the one before whole", _falls_back)
    yield Trial(
        "F6", "checkpoint of another method", partial(_foreign, "--model.class_path=methods.bitfit.BitFit", "method")
    )
    yield Trial("F6", "checkpoint of other weights", _other_weights)
    yield Trial(
        "F8", "configuration changed", partial(_changed, "--model.init_args.optimizer.init_args.lr=0.5", "lr was")
    )
    yield Trial("F8", "number of processes changed", _processes_changed)
    yield Trial("F8", "annotation files changed", _annotations_changed)
    yield Trial("F8", "change allowed by name", _change_allowed)
    yield Trial("F17", "the run is complete", _complete)
    yield Trial("F17", "two at once", _two_at_once)
    yield Trial("F17", "two at once, the second to overwrite", partial(_two_at_once, more=("--overwrite=true",)))
    for name, edit in _RECORDS.items():
        yield Trial("F18", f"record {name}", partial(_bad_record, edit))


# --- disks --------------------------------------------------------------------------------------------------------


def _full_disk(checkpoints: float, bench: Bench) -> str:
    """Room for so many checkpoints; with some left, they must be loadable."""
    size = _checkpoint_bytes(bench)
    ended, kept = _on_a_disk_of(f"{int(checkpoints * size) // 4096 * 4}k", bench)
    found = refused(ended, 5, LAST if checkpoints > 1 else "")
    return first_problem(found, loadable(kept) if checkpoints > 1 else HELD)


def _full_for_results(bench: Bench) -> str:
    ended, kept = _on_a_disk_of("16m", bench, "test disk full")
    return first_problem(refused(ended, 5, "No space left"), loadable(kept), incomplete(kept))


def _on_a_disk_of(size: str, bench: Bench, fault: str = "none") -> tuple[Ended, Path]:
    """A run whose folder is a disk of its own, and a copy of what it left there."""
    runs, kept = bench.new(), bench.new("kept")
    copied = ["sh", "-c", '"$@"; code=$?; cp -r "$0"/. ' + str(kept) + "; exit $code", str(runs)]
    command = bench.mounted(f"-t tmpfs -o size={size} none", runs, [*copied, *bench.fit(runs)])
    return bench.run(command, FAULT=fault), kept


def _full_tmpdir(bench: Bench) -> str:
    place = bench.new("tmp")
    command = bench.fit(bench.new(), "--data.init_args.num_workers=1")
    filled = ["sh", "-c", 'dd if=/dev/zero of="$0"/full bs=4k 2>/dev/null; exec "$@"', str(place), *command]
    return completed(bench.run(bench.mounted("-t tmpfs -o size=16k none", place, filled), TMPDIR=str(place)))


def _other_tmpdir(bench: Bench) -> str:
    place = bench.new("tmp")
    ended = bench.run(bench.mounted("-t tmpfs -o size=64m none", place, bench.fit(bench.new())), TMPDIR=str(place))
    return completed(ended)


def _runs_dir_is_a_file(bench: Bench) -> str:
    path = bench.new() / "file"
    path.write_text("")
    return refused(bench.run(bench.fit(path)), 5, str(path))


def _read_only_runs(bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.mounted("-t tmpfs -o ro none", runs, bench.fit(runs)))
    return refused(ended, 5, str(runs))


def _read_only_adapter(bench: Bench) -> str:
    (adapter,) = bench.uninterrupted().rglob("adapter.safetensors")
    folder = adapter.parent
    test = (*(*PETL_BENCH, "test"), "--plugins=benchmarks.faults.faulty")
    command = bench.mounted(f"--bind -o ro {folder}", folder, [*test, f"--ckpt_path={adapter}"])
    return refused(bench.run(command), 5, str(folder))


def _removed(bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.fit(runs), FAULT="remove")
    return first_problem(refused(ended, 5, str(runs)), incomplete(runs))


def _checkpoint_bytes(bench: Bench) -> int:
    return next(bench.uninterrupted().rglob(LAST)).stat().st_size


# --- checkpoints --------------------------------------------------------------------------------------------------


def _interrupted(bench: Bench, *more: str) -> Path:
    """A folder of runs with one that was killed in its second epoch."""
    runs = bench.new()
    ended = bench.run(bench.fit(runs, *more), FAULT="kill")
    if ended.code not in (-signal.SIGKILL, 6):
        raise RuntimeError(f"the run that was to be interrupted ended with {ended.code}: {ended.text[-300:]}")
    return runs


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "of zero bytes": lambda content: b"",
    "of text": lambda content: b"this is no checkpoint",
    "with one bit flipped": _flipped,
}


def _damaged(damage: Callable[[bytes], bytes], bench: Bench) -> str:
    """The only checkpoint there is."""
    runs = _interrupted(bench)
    (path,) = runs.rglob(LAST)
    path.write_bytes(damage(path.read_bytes()))
    return refused(bench.run(bench.fit(runs)), 5, LAST)


def _falls_back(bench: Bench) -> str:
    more = ("--save_every_n_steps=1",)
    runs = _interrupted(bench, *more)
    (path,) = runs.rglob(LAST)
    path.write_bytes(_flipped(path.read_bytes()))
    ended = bench.run(bench.fit(runs, *more))
    back = HELD if "going back to last-1.ckpt" in ended.text else "it does not say that it goes back"
    return first_problem(completed(ended), back, bench.compared(runs, *more), resumed(runs))


def _foreign(option: str, told: str, bench: Bench) -> str:
    (path,) = _interrupted(bench).rglob(LAST)
    ended = bench.run([*bench.fit(bench.new()), option, f"--ckpt_path={path}"])
    return refused(ended, 5, told)


def _other_weights(bench: Bench) -> str:
    """The same method on the same architecture with the weights that a training left behind."""
    runs = bench.new()
    bench.run(bench.fit(runs, method="methods.full.Full"))
    (weights,) = runs.rglob("adapter.safetensors")
    option = f"--model.init_args.backbone.init_args.pretrained={weights}"
    return _foreign(option, "backbone_sha256", bench)


# --- changes ------------------------------------------------------------------------------------------------------


def _changed(option: str, told: str, bench: Bench) -> str:
    (path,) = _interrupted(bench).rglob(LAST)
    return refused(bench.run(bench.fit(bench.new(), option, f"--ckpt_path={path}")), 5, told)


def _processes_changed(bench: Bench) -> str:
    runs = _interrupted(bench)
    ended = bench.run(bench.fit(runs, "--trainer.devices=2", "--trainer.strategy=ddp"))
    return refused(ended, 5, "processes was 1, is 2")


def _annotations_changed(bench: Bench) -> str:
    copy = bench.new("data") / "data"
    shutil.copytree(bench.data, copy)
    runs = _interrupted(bench, f"--data.init_args.root={copy}")
    path = copy / "MSRVTT_data.json"
    path.write_text(path.read_text() + "\n")
    return refused(bench.run(bench.fit(runs, f"--data.init_args.root={copy}")), 5, "data.init_args.captions_file was")


def _change_allowed(bench: Bench) -> str:
    runs = _interrupted(bench)
    ended = bench.run(bench.fit(runs, "--trainer.devices=2", "--trainer.strategy=ddp", "--allow_change", "processes"))
    if problem := completed(ended):
        return problem
    train = json.loads(next(runs.rglob("result.json")).read_text())["train"]
    return HELD if train["changed"] == {"processes": ["1", "2"]} else f"the record says {train['changed']}"


# --- folders and records ------------------------------------------------------------------------------------------


def _complete(bench: Bench) -> str:
    return refused(bench.run(bench.fit(bench.uninterrupted())), 2, "complete")


def _two_at_once(bench: Bench, more: tuple[str, ...] = ()) -> str:
    runs = bench.new()
    first = bench.start(bench.fit(runs))
    while first.poll() is None and not list(runs.rglob(LAST)):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # else it may be complete too soon
    second = bench.run(bench.fit(runs, *more))
    first.send_signal(signal.SIGCONT)
    code = first.wait()
    ended = HELD if code == 0 else f"the first ended with {code}"
    return first_problem(refused(second, 2, "another process"), ended, bench.compared(runs))


_RECORDS: dict[str, Callable[[str], str]] = {
    "half-written": lambda text: text[: len(text) // 2],
    "of a foreign schema": lambda text: text.replace(SCHEMA, "someone.else/9"),
    "with NaN for a metric": lambda text: text.replace('"R1": ', '"R1": NaN, "was": ', 1),
}


def _bad_record(edit: Callable[[str], str], bench: Bench) -> str:
    """A good run and a bad record: the report has the one and names the other."""
    runs, bad = bench.uninterrupted(), bench.new() / "bad" / "result.json"
    bad.parent.mkdir()
    bad.write_text(edit(next(runs.rglob("result.json")).read_text()))
    output = bench.new("report")
    folders = (str(runs), str(bad.parents[1]))
    ended = bench.run([*PETL_BENCH, "report", *folders, f"--output={output}"])
    if ended.code:
        return f"exit code {ended.code}: {ended.text[-300:]}"
    told = ended.text + "".join(path.read_text(errors="replace") for path in output.rglob("*.md"))
    return HELD if "bad/result.json" in told else "the report does not name the bad record"
