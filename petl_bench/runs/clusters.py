"""Where the processes of a run come from: what was asked for, what a launcher started, and how Lightning is told.

Lightning would choose by itself, from variables that may be left over from another job, and each of its environments
compares other numbers, or none. Here one check compares them all, before a run gets a folder.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from jsonargparse import Namespace
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Trainer

from petl_bench.errors import UsageError
from petl_bench.lightning_seams import LocalEnvironment, UncheckedSLURM
from petl_bench.machine.launch import LAUNCHED_BY, Launch, in_a_shell, in_a_step, number_in, this_launch
from petl_bench.runs.trainer_options import devices_of

#: on each of several machines, where the command is given on each by hand
_BY_HAND = ("MASTER_ADDR", "MASTER_PORT")
_FIRST_PORT, _PORTS = 15000, 10000


class Alone(LocalEnvironment):
    """A process that nobody launched: it starts the others of its machine, whatever is left in the environment."""

    def __init__(self, num_nodes: int = 1) -> None:
        super().__init__()
        self._told = LAUNCHED_BY in os.environ or num_nodes > 1

    @property
    def creates_processes_externally(self) -> bool:
        return LAUNCHED_BY in os.environ

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"] if self._told else "127.0.0.1"

    def _port(self) -> int:
        return port_in_environment() if self._told else _free_port()

    def local_rank(self) -> int:
        return number_in("LOCAL_RANK", 0) if LAUNCHED_BY in os.environ else 0

    def node_rank(self) -> int:
        return (_node_rank() or 0) if self._told else 0


class Srun(UncheckedSLURM):
    """A task of a step of a SLURM job; steps of one job do not meet each other, and one machine needs no name."""

    @property
    def main_address(self) -> str:
        nodes = next((os.environ[name] for name in _NODE_LISTS if os.environ.get(name)), "127.0.0.1")
        alone = number_in("SLURM_STEP_NUM_NODES", number_in("SLURM_NNODES", 1)) == 1
        return os.environ.get("MASTER_ADDR") or ("127.0.0.1" if alone else self.resolve_root_node_address(nodes))

    @property
    def main_port(self) -> int:
        if "MASTER_PORT" in os.environ:
            return port_in_environment()
        step = number_in("SLURM_STEP_ID", number_in("SLURM_STEPID", 0))
        return _FIRST_PORT + (number_in("SLURM_JOB_ID", 0) + 1013 * step) % _PORTS

    def world_size(self) -> int:
        return this_launch().world


#: options of launchers that say how many they start
_NUMBERS = {"torchrun": "torchrun's --nproc_per_node", "mpirun": "mpirun's -np", "jsrun": "jsrun's --nrs"}
_NODE_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


def require_processes(trainer: Namespace) -> int:
    """How many processes the options ask for, on all machines together: as many as there are, or will be.

    Raises:
        UsageError: this machine has not what they ask for, a launcher has started another number, or nothing started
            the processes of other machines.
        DistributedError: the launcher is gone.
    """
    devices, nodes = devices_of(trainer), trainer.num_nodes
    if trainer.plugins:  # the user says where the processes come from; see `require_as_many`
        return devices * nodes
    launch = this_launch()
    if launch.launcher == "srun":
        _require_tasks(launch, devices, nodes)
    elif launch.launcher in ("torchrun", "mpirun", "jsrun"):
        _require_world(launch, devices, nodes)
    elif not launch.launcher:
        _require_alone(nodes)
    return devices * nodes


def require_as_many(asked: int, trainer: Trainer, plugins: Sequence[object]) -> None:
    """Refuses a strategy, or an environment, of other processes than the options ask for.

    Raises:
        UsageError: naming both numbers.
    """
    started = {trainer.world_size}
    for plugin in plugins:  # where one device is asked for, the strategy is that of one process, whatever there is
        if isinstance(plugin, ClusterEnvironment) and plugin.creates_processes_externally:
            started.add(plugin.world_size())
    if wrong := started - {asked}:
        raise UsageError(
            f"trainer.devices times trainer.num_nodes is {asked}, but trainer.plugins finds {_processes(wrong.pop())} "
            "in the environment: let them agree, or leave trainer.plugins out"
        )


def cluster_environment(trainer: Namespace) -> list[ClusterEnvironment]:
    """What Lightning is told of where this process comes from; nothing where the user says it."""
    if trainer.plugins:
        return []
    launcher = this_launch().launcher
    if launcher == "srun":
        return [Srun()]
    kinds = {"torchrun": TorchElasticEnvironment, "jsrun": LSFEnvironment, "mpirun": MPIEnvironment}
    if launcher not in kinds:
        return [Alone(trainer.num_nodes)]
    try:
        return [kinds[launcher]()]
    except (LookupError, ValueError, OSError) as error:
        raise UsageError(f"{launcher} started this process, but its variables cannot be used: {error!r}") from error


def port_in_environment() -> int:
    """`MASTER_PORT`.

    Raises:
        UsageError: it is no port.
    """
    port = number_in("MASTER_PORT", 0)
    if not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT is {port} in the environment: it must be from 1 to {2**16 - 1}")
    return port


def _require_world(launch: Launch, devices: int, nodes: int) -> None:
    if launch.world != devices * nodes:
        each, rest = divmod(launch.world, nodes)
        change = f"--trainer.num_nodes, --trainer.devices or {_NUMBERS[launch.launcher]}"
        raise UsageError(
            f"{launch.launcher} started {_processes(launch.world)} ({launch.variable}), but trainer.devices {devices} "
            f"times trainer.num_nodes {nodes} is {devices * nodes}: "
            f"{f'change {change}' if rest else f'set --trainer.devices {each}, or change {_NUMBERS[launch.launcher]}'}"
        )
    if launch.launcher == "torchrun" and (each := number_in("LOCAL_WORLD_SIZE", devices)) != devices:
        raise UsageError(
            f"torchrun started {_processes(each)} on this machine (LOCAL_WORLD_SIZE), but trainer.devices is "
            f"{devices}: set --trainer.devices {each} --trainer.num_nodes {launch.world // max(each, 1)}"
        )
    if launch.launcher == "mpirun" and not MPIEnvironment.detect():
        raise UsageError(
            f"mpirun started {launch.world} processes ({launch.variable}), which meet by mpi4py, and that is not "
            "installed here: use torchrun or srun, or install mpi4py for this MPI"
        )


def _require_tasks(launch: Launch, devices: int, nodes: int) -> None:
    """Refuses steps whose tasks would wait for others, or that Lightning cannot tell apart."""
    if missing := [name for name in ("SLURM_LOCALID", "SLURM_NODEID") if name not in os.environ]:
        raise UsageError(
            f"srun started {launch.world} tasks ({launch.variable}), but {' and '.join(missing)} say nothing about "
            "this one: start the command with srun, or unset SLURM_STEP_ID if it is left over from another job"
        )
    each = _tasks_of_machines()
    if not each and nodes > 1:
        raise UsageError(
            f"this job was submitted with --ntasks={launch.world}, which does not say how many tasks a machine has: "
            f"use --nodes={nodes} --ntasks-per-node={max(launch.world // nodes, 1)}"
        )
    if len(set(each)) > 1:
        raise UsageError(
            f"this step has {' and '.join(map(str, each))} tasks on its machines, and each must have as many: use "
            f"--nodes={len(each)} --ntasks-per-node={devices}"
        )
    # By machine, which says what to change.
    variable = "SLURM_STEP_NUM_NODES" if "SLURM_STEP_NUM_NODES" in os.environ else "SLURM_NNODES"
    given = (
        ("devices", devices, each[0] if each else devices, "SLURM_NTASKS_PER_NODE"),
        ("num_nodes", nodes, number_in(variable, nodes), variable),
        ("devices", devices, launch.world // nodes if launch.world % nodes == 0 else launch.world, launch.variable),
    )
    for option, asked, started, source in given:
        if asked != started:
            raise UsageError(
                f"trainer.{option} is {asked}, but {source} is {launch.world if source == launch.variable else started}"
                f": set --trainer.{option} {started}, or give srun another number of tasks"
            )


def _tasks_of_machines() -> list[int]:
    """Tasks of each machine of a step, as far as SLURM says: `2(x3),1` is 2, 2, 2, 1."""
    told = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_NTASKS_PER_NODE")
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", told or "")
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]


def _require_alone(nodes: int) -> None:
    """Refuses what one process, and those that it starts on its machine, cannot be."""
    tasks = number_in("SLURM_NTASKS", 1)
    if tasks > 1 and not in_a_shell() and not in_a_step():
        raise UsageError(
            f"this job has {tasks} tasks (SLURM_NTASKS), but srun did not start this process: put `srun` before "
            "petl-bench, with --ntasks-per-node equal to trainer.devices; or submit it with --ntasks=1; or, in a shell "
            "of the job, unset SLURM_NTASKS"
        )
    if nodes == 1:
        return
    rank = _node_rank()
    if rank is None:
        raise UsageError(
            f"trainer.num_nodes is {nodes}, but nothing starts processes on other machines: use torchrun or srun "
            "(README, Several GPUs and machines)"
        )
    if rank >= nodes:
        raise UsageError(f"trainer.num_nodes is {nodes}, but NODE_RANK is {rank}: it counts the machines from 0 on")
    if missing := [name for name in _BY_HAND if not os.environ.get(name)]:
        raise UsageError(
            f"trainer.num_nodes is {nodes} and NODE_RANK {rank}, but {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} not set: machine 0's address and a free port of it, the same on all"
        )
    port_in_environment()


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _node_rank() -> int | None:
    name = next((name for name in ("NODE_RANK", "GROUP_RANK") if name in os.environ), None)
    return None if name is None else number_in(name, 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
