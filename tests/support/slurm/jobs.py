"""The jobs of the stand-in: one file each, changed under a lock."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
KILL_WAIT = 20.0  # seconds between SIGTERM and SIGKILL; SLURM's KillWait is 30


@dataclass
class Job:
    """What SLURM knows of a job.

    Attributes:
        id: its number; a job of an array has one of its own.
        array, index, indices, at_once: the array's number, its place in it, all places, how many run at a time.
        script, options, environment, folder: what was submitted, and where.
        state, code: how it stands, and the exit code of its script.
        restarts: how often it was started again.
        requeue, cancelled: what is to become of it when its processes have ended.
        signals: how often tasks were signalled on request.
        controller, batch, tasks: process groups.
        log: its states, one after the other.
    """

    id: int
    script: str
    options: dict[str, str]
    environment: dict[str, str]
    folder: str
    array: int | None = None
    index: int | None = None
    indices: list[int] = field(default_factory=list)
    at_once: int | None = None
    state: str = "PENDING"
    code: int | None = None
    restarts: int = 0
    requeue: bool = False
    cancelled: bool = False
    steps: int = 0
    controller: int | None = None
    batch: int | None = None
    tasks: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As users write it: 12, or 12_3 of an array."""
        return str(self.id) if self.array is None else f"{self.array}_{self.index}"

    @property
    def nodes(self) -> int:
        return int(self.options.get("nodes", 1))

    @property
    def tasks_per_node(self) -> int:
        return int(self.options.get("ntasks-per-node", 1))

    def __repr__(self) -> str:
        return f"Job({self.name}: {' '.join(self.log)}, code {self.code})"


def jobs_in(state: Path) -> list[Job]:
    jobs = [Job(**json.loads(file.read_text())) for file in state.glob("*.job")]
    return sorted(jobs, key=lambda job: (job.array or job.id, job.index or 0))


def load(state: Path, number: int) -> Job:
    return Job(**json.loads((state / f"{number}.job").read_text()))


def write(state: Path, job: Job) -> None:
    part = state / f"{job.id}.{os.getpid()}.part"
    part.write_text(json.dumps(asdict(job)))
    part.rename(state / f"{job.id}.job")


class Locked:
    """One process at a time changes jobs."""

    def __init__(self, state: Path) -> None:
        self.path = state / "lock"

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def store(state: Path, number: int, /, **changes: Any) -> Job:
    with Locked(state):
        job = load(state, number)
        for name, value in changes.items():
            setattr(job, name, value)
        if "state" in changes:
            job.log.append(job.state)
        write(state, job)
    return job


def control(state: Path, number: int) -> None:
    """A job from its first start to its end, in a process of its own."""
    os.setsid()
    store(state, number, controller=os.getpid())
    while True:
        while not _has_room(state, number):
            time.sleep(0.05)
        job = load(state, number)
        code = _run_batch(state, job)
        job = load(state, number)
        if job.requeue and not job.cancelled:
            # Under SLURM two minutes pass here.
            store(state, number, state="REQUEUED", requeue=False, restarts=job.restarts + 1, tasks=[], steps=0)
            store(state, number, state="PENDING")
            continue
        end = "CANCELLED" if job.cancelled else "COMPLETED" if code == 0 else "FAILED"
        store(state, number, state=end, code=code, tasks=[], batch=None)
        return


def _has_room(state: Path, number: int) -> bool:
    """Whether it may start, which is said in its file then."""
    with Locked(state):
        job = load(state, number)
        if job.at_once is not None:
            running = [other for other in jobs_in(state) if other.array == job.array and other.state == "RUNNING"]
            if len(running) >= job.at_once:
                return False
        job.state = "RUNNING"
        job.log.append(job.state)
        write(state, job)
        return True


def _run_batch(state: Path, job: Job) -> int:
    out, err = (_log_file(job, job.options.get(key)) for key in ("output", "error"))
    out.parent.mkdir(parents=True, exist_ok=True)  # submitit makes it after `sbatch`; SLURM starts no job at once
    with out.open("ab") as out_file, (err or out).open("ab") as err_file:
        batch = subprocess.Popen(
            ["bash", str(state / f"{job.id}.sh")], cwd=job.folder, env=_environment(job), stdout=out_file,
            stderr=err_file, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        store(state, job.id, batch=batch.pid)
        code = batch.wait()
    with suppress(ProcessLookupError):
        os.killpg(batch.pid, signal.SIGKILL)
    return code


def _log_file(job: Job, pattern: str | None) -> Any:
    if pattern is None:
        pattern = "slurm-%A_%a.out" if job.array is not None else "slurm-%j.out"
    return Path(job.folder, filled(pattern, job))


def filled(pattern: str, job: Job, task: int = 0, node: int = 0) -> str:
    """A pattern of a file name: %j the job, %A and %a the array and the place in it, %t the task, %n the node."""
    for letter, value in {
        "%j": job.id, "%A": job.array or job.id, "%a": job.index if job.index is not None else "", "%t": task,
        "%n": node,
    }.items():  # fmt: skip
        pattern = pattern.replace(letter, str(value))
    return pattern


def node_names(count: int) -> str:
    """As SLURM writes several nodes."""
    return "127.0.0.1" if count == 1 else f"127.0.0.[1-{count}]"


def _environment(job: Job) -> dict[str, str]:
    """What a batch script finds."""
    nodes, per_node = job.nodes, job.tasks_per_node
    per_nodes = f"{per_node}(x{nodes})" if nodes > 1 else str(per_node)
    found = job.environment | {
        "SLURM_JOB_ID": str(job.id), "SLURM_JOBID": str(job.id), "SLURM_JOB_NAME": job.options.get("job-name", "job"),
        "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NNODES": str(nodes), "SLURM_JOB_NODELIST": node_names(nodes),
        "SLURM_NODELIST": node_names(nodes), "SLURM_TASKS_PER_NODE": per_nodes,
        "SLURM_SUBMIT_DIR": job.folder, "SLURM_SUBMIT_HOST": "login", "SLURM_CLUSTER_NAME": "stand-in",
        "SLURM_JOB_PARTITION": job.options.get("partition", "main"), "SLURM_NODEID": "0", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_GTIDS": "0", "SLURMD_NODENAME": "127.0.0.1",
    }  # fmt: skip
    if "ntasks-per-node" in job.options:
        found |= {"SLURM_NTASKS_PER_NODE": str(per_node), "SLURM_NTASKS": str(nodes * per_node)}
        found |= {"SLURM_NPROCS": str(nodes * per_node)}
    if job.array is not None:
        found |= {
            "SLURM_ARRAY_JOB_ID": str(job.array), "SLURM_ARRAY_TASK_ID": str(job.index),
            "SLURM_ARRAY_TASK_COUNT": str(len(job.indices)), "SLURM_ARRAY_TASK_MIN": str(min(job.indices)),
            "SLURM_ARRAY_TASK_MAX": str(max(job.indices)), "SLURM_ARRAY_TASK_STEP": "1",
        }  # fmt: skip
    if job.restarts:
        found |= {"SLURM_RESTART_COUNT": str(job.restarts)}
    return found


def end_processes(state: Path, number: int) -> None:
    """SIGTERM for all tasks and the script, and what is left some seconds later is killed. Whoever asks for it does not
    wait: it may be among them."""
    if os.fork():
        return
    os.setsid()
    for number_of_file in range(3):  # whoever reads what the command says does not wait either
        os.dup2(os.open(os.devnull, os.O_RDWR), number_of_file)
    time.sleep(0.3)
    job = load(state, number)
    for group in job.tasks or ([job.batch] if job.batch else []):
        _signal(group, signal.SIGCONT)
        _signal(group, signal.SIGTERM)
    end, restarts = time.monotonic() + KILL_WAIT, job.restarts
    while time.monotonic() < end:
        time.sleep(0.1)
        job = load(state, number)
        if job.restarts != restarts or job.state != "RUNNING":
            os._exit(0)
    for group in [*job.tasks, *([job.batch] if job.batch else [])]:
        _signal(group, signal.SIGKILL)
    os._exit(0)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
