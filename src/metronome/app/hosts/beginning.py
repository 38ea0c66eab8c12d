"""How a run that torchrun has started begins: on all hosts from the same checkpoint, whether they share a disk or not.

The first process decides, by what all hosts have. Where they share no disk, the first process of each host keeps the
run's files there, so that any host can go on when another is lost; the newest checkpoint that any of them has is sent
to those that lack it.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metronome.app.hosts.company import Company
from metronome.app.hosts.files import digest_of, small_files, whole_checkpoints
from metronome.app.hosts.keepers import keepers_of
from metronome.app.hosts.logs import send_logs
from metronome.app.hosts.sending import send
from metronome.app.hosts.told import RunTold, agents_of, keep_agents, merged, started_before
from metronome.runs.folders import RunFolder, hold, relative
from metronome.runs.going_on import Asked, RunFound, Start

log = logging.getLogger("metronome")

START_FROM = ".start_from"  # what is sent of a checkpoint that lies outside of the run's folder


@dataclass(frozen=True)
class Beginning:
    """How this process begins.

    Attributes:
        start: with its checkpoint as a file of this host.
        is_keeper: whether it keeps the run's files, on a disk that the first process does not see.
        first_folder: the run's folder on the first host, if any process does.
        lock: of the folder on that disk.
    """

    start: Start
    is_keeper: bool = False
    first_folder: Path | None = None
    lock: Any = None


def agreed_beginning(
    company: Company, asked: Asked, folder: Path, choose: Callable[[Asked, RunFound], Start],
    with_file: Callable[[Start], Start], read: Callable[[Path], dict[str, Any]],
) -> Beginning:  # fmt: skip
    """What the first process decides.

    Args:
        asked: by the command.
        folder: of the run, on this host; the first process holds it.
        choose: the start, by what is asked and what is in the folder.
        with_file: the same with its checkpoint as a file.
        read: a checkpoint to its last byte; raises InputError if it is not whole.
    """
    keepers = keepers_of(company, folder)
    is_apart, is_keeper = len(set(keepers)) > 1, company.is_keeper and company.host in keepers
    here, lock = RunFolder(Path(relative(folder))), None

    def look() -> dict[str, Any]:
        nonlocal lock
        if is_keeper and company.rank != 0:
            lock = hold(folder)
        told = {"run": RunTold.of(here, company.agent).as_dict(), "agent": company.agent}
        has_own = is_apart and is_keeper
        return told | {
            "checkpoints": whole_checkpoints(folder, read) if has_own else {},
            "small": small_files(folder) if has_own else {},
        }

    told = company.from_hosts(look)
    if is_apart and company.rank == 0:
        log.info("%-11sno disk in common: each host keeps the run's checkpoints", "hosts")

    def decide() -> dict[str, Any]:
        run, again = _as_all_see_it(here, told, keepers)
        as_asked = asked
        if again and started_before(asked, [replace(run, is_ours=True)]) is not None:
            as_asked = replace(asked, checkpoint=None, resume=True)
        start = choose(as_asked, run if is_apart else here)
        plan: dict[str, Any] = {"agents": [one["agent"] for one in told], "folder": str(folder)}
        if is_apart and start.goes_on and start.checkpoint is None and start.newest_in in (None, str(here.folder)):
            return plan | _from_the_folder(start, told, sorted(set(keepers)))
        return plan | {"start": with_file(start).as_dict()}

    plan = company.first_says(decide)
    start = Start(**plan["start"])
    if is_apart and "owner" in plan:
        wanted = {int(host): names for host, names in plan["wanted"].items()}
        send(company, folder, plan["owner"], wanted, folder)
        if start.checkpoint is not None:
            newest = here.folder / start.checkpoint
            start = replace(start, checkpoint=str(newest))
            send_logs(company, lambda: read(newest)["metronome"]["logs"], folder, sorted(set(keepers)))
    elif is_apart and start.checkpoint is not None:
        start = _from_outside(company, start, folder, keepers)
    if is_keeper:
        keep_agents(folder, plan["agents"])
    return Beginning(start, is_keeper and company.rank != 0, Path(plan["folder"]) if is_apart else None, lock)


def _as_all_see_it(here: RunFolder, told: list[dict[str, Any]], keepers: list[int]) -> tuple[RunTold, bool]:
    """The run in the folder, as it is on all disks together, and whether one of these torchruns has worked in it."""
    runs = [RunTold.from_dict(told[host]["run"]) for host in sorted(set(keepers))]
    (run,) = merged(runs)
    before = agents_of(here.folder)
    return run, any(one["run"]["is_ours"] or one["agent"] in before for one in told)


def _from_the_folder(start: Start, told: list[dict[str, Any]], keepers: list[int]) -> dict[str, Any]:
    """From the checkpoint with the most steps that any host has; its host sends what the others lack."""
    steps = {host: max((file["steps"] for file in told[host]["checkpoints"].values()), default=-1) for host in keepers}
    holders = [host for host in keepers if told[host]["run"]["overrides"] is not None]
    if start.is_done:
        holders = [host for host in holders if told[host]["run"]["status"] is not None] or holders
    owner = max(holders, key=lambda host: (told[host]["run"]["status"] == "finished", steps[host], -host))
    theirs: dict[str, Any] = told[owner]["checkpoints"]
    wanted: dict[int, list[str]] = {}
    for host in keepers:
        ours = told[host]["checkpoints"]
        lacks = [name for name, file in theirs.items() if ours.get(name, {}).get("digest") != file["digest"]]
        # A host that has a configuration keeps it: what the run has now replaces it when that has saved.
        lacks += [name for name in told[owner]["small"] if name not in told[host]["small"]]
        if lacks and host != owner:
            wanted[host] = lacks
    newest = max(theirs, key=lambda name: theirs[name]["steps"], default=None)
    if wanted and newest is not None:
        to = ", ".join(map(str, wanted))
        log.info("%-11shost %s sends the checkpoint of step %s to host %s", "", owner, f"{steps[owner]:,}", to)
    return {"start": replace(start, checkpoint=newest, newest_in=None).as_dict(), "owner": owner, "wanted": wanted}


def _from_outside(company: Company, start: Start, folder: Path, keepers: list[int]) -> Start:
    """From a file that the first host has; the others may have it under the same name."""
    file = Path(str(start.checkpoint))
    digest = company.first_says(lambda: digest_of(file))
    has_it = company.from_hosts(lambda: file.is_file() and digest_of(file) == digest)
    wanted: dict[str, list[str]] = company.first_says(
        lambda: {str(host): [file.name] for host in sorted(set(keepers)) if not has_it[host]}
    )
    send(company, file.parent, 0, {int(host): names for host, names in wanted.items()}, folder / START_FROM)
    if str(keepers[company.host]) in wanted:
        return replace(start, checkpoint=str(folder / START_FROM / file.name))
    return start
