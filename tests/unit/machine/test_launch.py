"""Who this process is: what launchers at work say, and nothing that other jobs have left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from petl_bench.errors import DistributedError, UsageError
from petl_bench.machine import launch
from petl_bench.machine.launch import LAUNCHED_BY, Launch, require_one_process, this_launch, without_left_overs
from petl_bench.runs.clusters import Alone, Srun, cluster_environment, require_as_many, require_processes
from petl_bench.storage.checkpoints import SafeCheckpointIO

_PREFIXES = ("SLURM_", "TORCHELASTIC", "OMPI_", "PMI", "MV2_", "JSM_", "LSB_", "PETL_BENCH_LAUNCHED")
_NAMES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
STEP = {
    **{"SLURM_JOB_ID": "70001", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "1", "SLURM_NTASKS": "2"},
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NNODES": "1"},
}
TWO_MACHINES = {"NODE_RANK": "1", "MASTER_ADDR": "one", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in _NAMES:
            monkeypatch.delenv(name)


def options(**changed: Any) -> Namespace:
    return Namespace(**{"accelerator": "cpu", "devices": 1, "num_nodes": 1, "plugins": None, **changed})


def given(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *above: str) -> None:
    """An environment, and the programs above this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "_commands_above", lambda process: iter([program.split() for program in above]))


# --- left over --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"RANK": "x"},
        {"SLURM_PROCID": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"},
        {"NODE_RANK": "1", "GROUP_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
        {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nowhere"},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "nohost", "MASTER_PORT": "1"},
        TORCHRUN,
        # a shell of an allocation, and one of an interactive step
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
    ],
    ids=str,
)
@pytest.mark.parametrize("devices", [1, 2])
def test_left_over_variables_mean_nothing(
    environment: dict[str, str], devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, environment, "python -m pytest torchrun", "bash tests/torchrun.sh", "sshd: torchrun")
    asked = options(devices=devices)
    assert this_launch() == Launch()
    assert require_processes(asked) == devices
    (alone,) = cluster_environment(asked)
    assert (alone.local_rank(), alone.node_rank(), alone.main_address) == (0, 0, "127.0.0.1")
    assert not alone.creates_processes_externally
    assert alone.main_port > 1024


def test_no_library_finds_them_and_they_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"})
    with without_left_overs() as found:
        assert found == "RANK=1, WORLD_SIZE=2"
        assert not os.environ.keys() & {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
        os.environ.update(LOCAL_RANK="0", NODE_RANK="0", MASTER_PORT="2")  # as Lightning does
    assert {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "MASTER_PORT")} == {
        **{"RANK": "1", "LOCAL_RANK": "0"},
        **{"NODE_RANK": None, "MASTER_PORT": "1"},
    }


def test_those_of_a_launcher_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN, "/usr/bin/python3 -u /usr/bin/torchrun --nproc_per_node 2")
    with without_left_overs() as found:
        assert found == ""
        assert os.environ["RANK"] == "1"


# --- launchers at work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "above",
    [
        *(
            "torchrun --nnodes 1 fit",
            "/usr/bin/python3 -u /usr/bin/torchrun fit",
            "python -m torch.distributed.run fit",
        ),
        *("python -X dev -m torch.distributed.launch", "python /x/torch/distributed/run.py", "python /bin/accelerate"),
    ],
)
def test_torchrun(above: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TORCHRUN, "bash wrapper.sh", above)
    assert this_launch() == Launch("torchrun", 1, 2, "WORLD_SIZE")
    assert require_processes(options(devices=2)) == 2
    assert isinstance(cluster_environment(options(devices=2))[0], TorchElasticEnvironment)


def test_torchrun_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"}, "/sbin/init")
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(DistributedError, match="torchrun, which started this process, is gone"):
        this_launch()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8"},
        {"SLURM_STEP_TASKS_PER_NODE": "2"},
        {"SLURM_NTASKS_PER_NODE": "2"},
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "interactive"},
        {"RANK": "0", "LOCAL_RANK": "0"},
    ],
    ids=str,
)
def test_a_step_of_slurm(more: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {**STEP, **more})
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    found = this_launch()
    assert (found.launcher, found.rank, found.world) == ("srun", 1, 2)
    assert require_processes(options(devices=2)) == 2
    (environment,) = cluster_environment(options(devices=2))
    assert isinstance(environment, Srun)
    assert (environment.world_size(), environment.global_rank(), environment.local_rank()) == (2, 1, 1)
    assert environment.main_address == "127.0.0.1"
    port = environment.main_port
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    assert port != environment.main_port  # another step of the same job


def test_a_step_on_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_NODEID": "1"}
    given(monkeypatch, {**STEP, **spread, "SLURM_STEP_NODELIST": "gpu[07-08],login"})
    asked = options(devices=2, num_nodes=2)
    assert require_processes(asked) == 4
    assert cluster_environment(asked)[0].main_address == "gpu07"


def test_a_process_that_petl_bench_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started = {LAUNCHED_BY: "1", "LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "7"}
    given(monkeypatch, started)
    assert this_launch().rank == 1
    (environment,) = cluster_environment(options(devices=2))
    assert environment.creates_processes_externally
    assert (environment.local_rank(), environment.main_port) == (1, 7)


def test_machines_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, TWO_MACHINES)
    spread = options(devices=2, num_nodes=2)
    assert require_processes(spread) == 4
    (environment,) = cluster_environment(spread)
    assert (environment.node_rank(), environment.main_address, environment.main_port) == (1, "one", 29500)


def test_the_users_own_environment_is_compared_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, {"RANK": "1", "WORLD_SIZE": "4"})
    own = options(plugins=[object()])
    assert require_processes(own) == 1
    assert cluster_environment(own) == []
    for asked in (1, 4):
        trainer = SimpleNamespace(world_size=asked)
        require_as_many(asked, trainer, [SafeCheckpointIO()])  # type: ignore[arg-type]
        require_as_many(asked, trainer, [Alone()])  # type: ignore[arg-type]
    require_as_many(4, trainer, [TorchElasticEnvironment()])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"is 1, but trainer\.plugins finds 4 processes"):
        require_as_many(1, SimpleNamespace(world_size=1), [TorchElasticEnvironment()])  # type: ignore[arg-type]


# --- contradictions ---------------------------------------------------------------------------------------------------

MPIRUN = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "told"),
    [
        (TORCHRUN, 1, 1, r"torchrun started 2 .*devices 1 times .* is 1: set .*devices 2, or change .*--nproc"),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 2, 1, r"torchrun started 1 process .*devices 2 .* is 2"),
        ({**TORCHRUN, "WORLD_SIZE": "3"}, 2, 2, r"started 3 .* is 4: change --trainer\.num_nodes"),
        (TORCHRUN, 1, 2, r"2 processes on this machine \(LOCAL_WORLD_SIZE\), but trainer\.devices is 1: set .* 2 .* 1"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, 2, 1, "WORLD_SIZE is '' in the environment"),
        ({**TORCHRUN, "RANK": "-1"}, 2, 1, "RANK is -1 in the environment"),
        (MPIRUN, 1, 1, "mpirun started 2 processes .* is 1"),
        (MPIRUN, 2, 1, "mpirun started 2 processes .* mpi4py"),
        (STEP, 1, 1, r"trainer\.devices is 1, but SLURM_NTASKS is 2: set --trainer\.devices 2"),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, 2, 1, r"devices is 2, but SLURM_STEP_NUM_TASKS is 4"),
        ({**STEP, "SLURM_NTASKS_PER_NODE": "4"}, 2, 1, r"devices is 2, but SLURM_NTASKS_PER_NODE is 4"),
        ({**STEP, "SLURM_NNODES": "2"}, 2, 1, r"num_nodes is 1, but SLURM_NNODES is 2: set --trainer\.num_nodes 2"),
        ({**STEP, "SLURM_NNODES": "2"}, 1, 2, "does not say how many tasks a machine has: use --nodes=2"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)"}, 2, 2, "2 and 1 and 1 tasks on its machines"),
        ({name: STEP[name] for name in STEP if name != "SLURM_LOCALID"}, 2, 1, "2 tasks .* SLURM_LOCALID say nothing"),
        ({"SLURM_NTASKS": "4"}, 1, 1, r"4 tasks \(SLURM_NTASKS\), but srun did not start this .* put `srun` before"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, 4, 1, "put `srun` before"),
        ({"SLURM_NTASKS": "four"}, 1, 1, "SLURM_NTASKS is four in the environment"),
        ({"SLURM_NTASKS": "1"}, 1, 2, r"num_nodes is 2, but nothing starts"),
        ({}, 1, 2, r"num_nodes is 2, but nothing starts processes on other machines: use torchrun or srun"),
        ({"NODE_RANK": "0"}, 1, 2, "NODE_RANK 0, but MASTER_ADDR and MASTER_PORT are not set"),
        ({**TWO_MACHINES, "NODE_RANK": "2"}, 1, 2, "num_nodes is 2, but NODE_RANK is 2"),
        ({**TWO_MACHINES, "MASTER_PORT": "70000"}, 1, 2, "MASTER_PORT is 70000 in the environment"),
    ],
)
def test_contradictions_are_refused(
    environment: dict[str, str], devices: int, nodes: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, environment, "mpirun -np 2 x", "torchrun")
    with pytest.raises(UsageError, match=told):
        require_processes(options(devices=devices, num_nodes=nodes))


@pytest.mark.parametrize(("environment", "launcher"), [(TORCHRUN, "torchrun"), (STEP, "srun"), (MPIRUN, "mpirun")])
def test_what_one_process_does(environment: dict[str, str], launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, environment, "torchrun", "mpiexec.hydra -n 2")
    with pytest.raises(UsageError, match=f"data runs as one process, but {launcher} started 2 .* without {launcher}"):
        require_one_process("data")
    given(monkeypatch, {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, "bash")
    require_one_process("data")


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_programs_above_are_found_in_proc(tmp_path: Path) -> None:
    """A real launcher by name, with a shell in between."""
    script = tmp_path / "torchrun"
    script.write_text(
        "import subprocess, sys\n"
        "code = 'from petl_bench.machine.launch import this_launch; print(this_launch())'\n"
        "subprocess.run(['sh', '-c', '\"$1\" -c \"$2\"; true', 'sh', sys.executable, code], check=True)\n"
    )
    elsewhere = tmp_path / "other.py"
    elsewhere.write_text(script.read_text())
    for path, launcher in ((script, "torchrun"), (elsewhere, "")):
        command = [sys.executable, "-u", str(path)]
        ended = subprocess.run(command, env={**os.environ, **TORCHRUN}, capture_output=True, text=True, check=True)
        assert f"launcher='{launcher}'" in ended.stdout
