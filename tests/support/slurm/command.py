"""What stands behind each command: `python -m slurm.command sbatch job.sh`."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from slurm.jobs import (
    ENDED,
    Job,
    Locked,
    control,
    end_processes,
    filled,
    jobs_in,
    load,
    node_names,
    store,
    write,
)

STATE = Path(os.environ.pop("SLURM_STAND_IN"))
os.environ["PYTHONPATH"] = os.environ.pop("SLURM_STAND_IN_PATH")  # the caller's, for what it starts
_SHORT = {"-N": "nodes", "-n": "ntasks", "-J": "job-name", "-o": "output", "-e": "error", "-j": "jobs", "-s": "signal"}
_ALONE = ("unbuffered", "label", "parsable", "parsable2", "noheader", "requeue", "exclusive", "full", "wait")


def options_of(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options up to the first word that is none, and the rest."""
    found: dict[str, str] = {}
    while words and words[0].startswith("-"):
        word, *words = words
        name, equals, value = word.partition("=")
        name = _SHORT.get(name, name.lstrip("-"))
        if not equals and name not in _ALONE and name not in ("h", "kill-on-bad-exit"):
            value, *words = words
        found[name] = value or found.get(name, "")
    return found, words


def sbatch(words: list[str]) -> int:
    options, (script, *_) = options_of(words)
    text = Path(script).read_text()
    if not text.startswith("#!"):
        print("sbatch: error: This does not look like a batch script.", file=sys.stderr)
        return 1
    lines = []
    for line in text.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            lines += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line and not line.startswith("#"):
            break  # what stands below a command is not read
    options = options_of(lines)[0] | options
    options.setdefault("job-name", Path(script).name)
    indices, at_once = [], None
    if "array" in options:
        found = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", options["array"])
        assert found is not None
        indices, at_once = list(range(int(found[1]), int(found[2]) + 1)), int(found[3]) if found[3] else None
    with Locked(STATE):
        first = max([100, *(job.id for job in jobs_in(STATE))]) + 1
        # The last of an array has the array's number.
        ids = [first] if not indices else [*range(first + 1, first + len(indices)), first]
        jobs = [
            Job(id=number, script=script, options=options, environment=dict(os.environ), folder=os.getcwd(),
                array=first if indices else None, index=index, indices=indices, at_once=at_once, log=["PENDING"])
            for number, index in zip(ids, indices or [None], strict=True)
        ]  # fmt: skip
        for job in jobs:
            (STATE / f"{job.id}.sh").write_text(text)  # the script as it is now
            write(STATE, job)
    print(first if "parsable" in options else f"Submitted batch job {first}", flush=True)
    for job in jobs:
        if not os.fork():
            for number in range(3):  # the caller may wait for the end of what this command prints
                os.dup2(os.open(os.devnull if number < 2 else STATE / "errors", os.O_RDWR | os.O_CREAT), number)
            control(STATE, job.id)
            os._exit(0)
    return 0


def srun(words: list[str]) -> int:
    """A step of the job around it: its tasks, as processes here."""
    options, command = options_of(words)
    job = load(STATE, int(os.environ["SLURM_JOB_ID"]))
    nodes = int(options.get("nodes", job.nodes))
    per_node = int(options.get("ntasks-per-node", job.tasks_per_node))
    count = int(options.get("ntasks", nodes * per_node))
    step = job.steps
    store(STATE, job.id, steps=step + 1)
    of_step = {
        "SLURM_STEP_ID": str(step), "SLURM_STEPID": str(step), "SLURM_STEP_NODELIST": node_names(nodes),
        "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})" if nodes > 1 else str(per_node),
        "SLURM_NTASKS": str(count), "SLURM_NPROCS": str(count), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_SRUN_COMM_HOST": "127.0.0.1",
    }  # fmt: skip
    if "ntasks-per-node" in options:
        of_step["SLURM_NTASKS_PER_NODE"] = options["ntasks-per-node"]
    tasks = []
    for rank in range(count):
        node = rank // per_node
        environment = os.environ | of_step | {
            "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % per_node), "SLURM_NODEID": str(node),
            "SLURMD_NODENAME": f"127.0.0.{node + 1}", "SLURM_TOPOLOGY_ADDR": f"127.0.0.{node + 1}",
            "SLURM_GTIDS": ",".join(str(node * per_node + i) for i in range(per_node)),
        }  # fmt: skip
        files = {}
        for key, name in (("stdout", "output"), ("stderr", "error")):
            if name in options:
                path = Path(filled(options[name], job, rank, node))
                path.parent.mkdir(parents=True, exist_ok=True)
                files[key] = path.open("ab")
        if "stdout" in files:
            files.setdefault("stderr", subprocess.STDOUT)
        tasks.append(subprocess.Popen(command, env=environment, start_new_session=True, **files))
        store(STATE, job.id, tasks=[task.pid for task in tasks])
    kills = options.get("kill-on-bad-exit", os.environ.get("SLURM_KILL_BAD_EXIT", "0")) != "0"
    signal.signal(signal.SIGTERM, lambda *_: _signal_tasks(job.id, signal.SIGTERM))
    told = False
    while None in (codes := [task.poll() for task in tasks]):
        time.sleep(0.02)
        if kills and not told and any(code not in (None, 0) for code in codes):
            told = True
            _signal_tasks(job.id, signal.SIGTERM)
    for task in tasks:  # what they have left behind
        with suppress(ProcessLookupError):
            os.killpg(task.pid, signal.SIGKILL)
    return max(code if code >= 0 else 128 - code for code in codes if code is not None)


def _signal_tasks(number: int, which: int) -> None:
    for group in load(STATE, number).tasks:
        with suppress(ProcessLookupError):
            os.killpg(group, which)


def _asked_for(words: list[str]) -> list[Job]:
    names = {name for word in words for name in word.split(",")}
    return [job for job in jobs_in(STATE) if names & {job.name, str(job.array), str(job.id)}]


def scontrol(words: list[str]) -> int:
    verb, *names = words
    jobs = _asked_for(names)
    assert verb == "requeue", words
    if not jobs:
        print("Invalid job id specified", file=sys.stderr)
        return 1
    for job in jobs:
        with Locked(STATE):
            job = load(STATE, job.id)
            with (STATE / "requeued").open("a") as file:
                file.write(f"{job.name}\n")
            job.requeue = job.state == "RUNNING"
            write(STATE, job)
        if not job.requeue:
            print(f"Job {job.name} is not running", file=sys.stderr)
            return 1
        end_processes(STATE, job.id)
    return 0


def scancel(words: list[str]) -> int:
    options, names = options_of(words)
    while any(word.startswith("-") for word in names):  # options may stand behind the jobs
        at = next(i for i, word in enumerate(names) if word.startswith("-"))
        more, rest = options_of(names[at:])
        options, names = options | more, names[:at] + rest
    jobs = _asked_for(names)
    for job in jobs:
        if "signal" in options:
            word = options["signal"].removeprefix("SIG")
            _signal_tasks(job.id, int(word) if word.isdecimal() else getattr(signal, f"SIG{word}"))
        elif job.state == "RUNNING":
            store(STATE, job.id, cancelled=True)
            end_processes(STATE, job.id)
    return 0 if jobs else 1


def sacct(words: list[str]) -> int:
    names = [value for flag, value in itertools.pairwise(words) if flag in ("-j", "--jobs")]
    print("JobID|State|NodeList")
    for job in _asked_for(names):
        state = "COMPLETING" if job.requeue else job.state
        print(f"{job.name}|{state}|{node_names(job.nodes)}")
        for step in range(job.steps):
            print(f"{job.name}.{step}|{state}|{node_names(job.nodes)}")
    return 0


def squeue(words: list[str]) -> int:
    options, _ = options_of(words)
    if "h" not in options and "noheader" not in options:
        print("JOBID STATE NODES NODELIST")
    for job in jobs_in(STATE) if "jobs" not in options else _asked_for([options["jobs"]]):
        if job.state not in ENDED:
            print(f"{job.name} {job.state} {job.nodes} {node_names(job.nodes)}")
    return 0


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    sys.exit({f.__name__: f for f in (sbatch, srun, scontrol, scancel, sacct, squeue)}[name](rest))
