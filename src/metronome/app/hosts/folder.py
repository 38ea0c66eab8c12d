"""The folder of a run that torchrun has started: the same on all hosts, and again where torchrun starts it again."""

from collections.abc import Callable
from pathlib import Path

from metronome.app.hosts.company import Company
from metronome.app.hosts.told import RunTold, merged, of_interest, started_before
from metronome.runs.folders import relative, runs_in
from metronome.runs.going_on import Asked, RunFound


def agreed_folder(company: Company, asked: Asked, new: Path, choose: Callable[[list[RunFound]], Path]) -> str:
    """What the first process makes of what all hosts have on their disks.

    Args:
        asked: by the command.
        new: a folder that is not there yet.
        choose: the folder by the runs that are there.
    """
    told = company.from_hosts(lambda: [run.as_dict() for run in of_interest(asked, runs_in(new.parent), company.agent)])

    def decide() -> str:
        there = merged(RunTold.from_dict(run) for runs in told for run in runs)
        if (ours := started_before(asked, there)) is not None:
            return relative(ours.folder)
        return relative(choose(list(there)))

    return company.first_says(decide)
