"""Which run and which checkpoint a command goes on with: the rules, as a table."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from metronome.runs.going_on import Asked, Start, choose_folder, choose_start, leave_word_of_start, resumes
from metronome.units import InputError

BASE = Path("runs/x")
NEW, MINE, OTHERS = BASE / "new", ["seed=1"], ["seed=2"]


@dataclass
class Found:
    """A run as it could be found on the disk."""

    name: str
    overrides: list[str] | None = field(default_factory=lambda: MINE)
    status: str | None = None
    started: int = 0
    files: dict[str, int] = field(default_factory=dict)  # checkpoints, and when each was written

    @property
    def folder(self) -> Path:
        return (BASE / self.name).absolute()

    @property
    def checkpoints(self) -> dict[Path, int]:
        return {self.folder / name: written for name, written in self.files.items()}


def asks(checkpoint: str | None = None, resume: bool = False, retry: bool = False) -> Asked:
    return Asked(MINE, checkpoint, resume, retry)


def in_run(name: str) -> str:
    return str(BASE / name)


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [
        # nothing is asked for: a new one, whatever there is
        (asks(), [], "new"),
        (asks(), [Found("a", files={"last.ckpt": 1})], "new"),
        # 1. ckpt_path=last: the checkpoint that was written last, whoever was started last, however it ended
        (asks("last"), [Found("a", started=9, files={"last.ckpt": 1}), Found("b", files={"last.ckpt": 2})], "b"),
        (asks("last"), [Found("a", files={"a": 1, "b": 5}), Found("b", files={"a": 2, "b": 3})], "a"),
        (asks("last"), [Found("a", OTHERS, "failed", files={"last.ckpt": 1}), Found("b", started=5)], "a"),
        # a finished one stays as it is
        (asks("last"), [Found("a", OTHERS, "finished", files={"last.ckpt": 1}), Found("b", started=5)], "new"),
        # 3. resume: the newest of the same values, unfinished before finished
        (asks(resume=True), [], "new"),
        (asks(resume=True), [Found("a", OTHERS)], "new"),
        (asks(resume=True), [Found("a", None)], "new"),
        (asks(resume=True), [Found("a", started=1), Found("b", started=2)], "b"),
        (asks(resume=True), [Found("new", started=1), Found("b", started=2)], "new"),  # by SLURM's number
        (asks(resume=True), [Found("a", started=1), Found("b", status="finished", started=2)], "a"),
        (asks(resume=True), [Found("a", status="stopped", started=1), Found("b", status="failed", started=2)], "b"),
        (asks(resume=True), [Found("a", status="finished", started=1), Found("b", OTHERS, started=2)], "a"),
    ],
)
def test_the_folder(asked: Asked, there: list[Found], chosen: str) -> None:
    assert choose_folder(asked, NEW, there).name == chosen


@pytest.mark.parametrize(
    ("given", "around", "chosen"),
    [
        # 2. a path: the run that it lies in, if that was cut off there
        ("a/last.ckpt", Found("a", files={"last.ckpt": 1}), "a"),
        ("a/last.ckpt", Found("a", OTHERS, "stopped", files={"last.ckpt": 2, "best.ckpt": 1}), "a"),
        ("a/best.ckpt", Found("a", files={"last.ckpt": 2, "best.ckpt": 1}), "new"),
        ("a/last.ckpt", Found("a", status="finished", files={"last.ckpt": 1}), "new"),
        ("elsewhere.ckpt", None, "new"),
    ],
)
def test_the_folder_of_a_path(given: str, around: Found | None, chosen: str) -> None:
    assert choose_folder(asks(in_run(given)), NEW, [], around).name == chosen


@pytest.mark.parametrize("there", [[], [Found("a")]])
def test_last_where_there_is_none(there: list[Found]) -> None:
    with pytest.raises(InputError, match="no run in runs/x has a checkpoint; leave it out to start a new one"):
        choose_folder(asks("last"), NEW, there)


HERE, ELSEWHERE = {"last.ckpt": 1}, [Found("a", files={"last.ckpt": 5}), Found("b", files={"last.ckpt": 4})]


@pytest.mark.parametrize(
    ("asked", "here", "is_job", "goes_on", "is_done", "starts_from"),
    [
        # 6. from nothing
        (asks(), Found("here", None), False, False, False, None),
        (asks(resume=True), Found("here", None), False, False, False, None),
        (asks(), Found("here", files=HERE), False, False, False, None),  # which claiming the folder refuses
        # 1., 5. the same run goes on, from its newest checkpoint
        (asks(resume=True), Found("here", files=HERE), False, True, False, "in here"),
        (asks(resume=True), Found("here"), False, True, False, "in here"),
        (asks(resume=True), Found("here", status="stopped"), True, True, False, "in here"),
        # 2. nothing is left to do, or to be tried
        (asks(resume=True), Found("here", status="finished", files=HERE), False, True, True, None),
        (asks(resume=True), Found("here", status="failed"), False, True, False, "in here"),
        (asks(resume=True), Found("here", status="failed"), True, True, True, None),
        (asks(resume=True, retry=True), Found("here", status="failed"), True, True, False, "in here"),
        (asks(resume=True, retry=True), Found("here", status="finished"), True, True, True, None),
        # 3. the given checkpoint, of this run or of another
        (asks(in_run("here/last.ckpt")), Found("here", files=HERE), False, True, False, "here/last.ckpt"),
        (asks(in_run("here/last.ckpt")), Found("here", OTHERS, "finished"), False, True, False, "here/last.ckpt"),
        (asks(in_run("a/last.ckpt")), Found("here", None), False, False, False, "a/last.ckpt"),
        (asks(in_run("a/last.ckpt")), Found("here", files=HERE), False, False, False, "a/last.ckpt"),
        # 4. last: its own, or that of the whole experiment
        (asks("last"), Found("here", OTHERS, "finished", files=HERE), False, True, False, "must be in here"),
        (asks("last"), Found("here"), False, True, False, "must be in a"),
        (asks("last"), Found("here", None), True, False, False, "must be in a"),
    ],
)
def test_the_start(
    asked: Asked, here: Found, is_job: bool, goes_on: bool, is_done: bool, starts_from: str | None
) -> None:
    start = choose_start(asked, here, is_job, ELSEWHERE, BASE)
    assert (start.goes_on, start.is_done) == (goes_on, is_done)
    assert start.before == (here.status if goes_on else None)
    source = None if start.checkpoint is None else str(Path(start.checkpoint).relative_to(BASE))
    if start.newest_in is not None:
        source = f"{'must be ' if start.must_have else ''}in {Path(start.newest_in).name}"
    assert source == starts_from
    assert Start(**start.as_dict()) == start


def test_a_folder_of_other_values() -> None:
    with pytest.raises(
        InputError, match=r"holds a run of other values \(seed=2\); give another one, or ckpt_path=last"
    ):
        choose_start(asks(resume=True), Found("here", OTHERS), False, [], BASE)
    assert choose_start(asks("last"), Found("here", OTHERS, files=HERE), False, [], BASE).goes_on


def test_slurm_starts_the_same_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert [resumes(word) for word in (None, "auto", "retry")] == [False, True, True]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert not resumes(None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert resumes(None)
    with pytest.raises(InputError, match="resume=nonsense is not known"):
        resumes("nonsense")


def test_submitit_starts_a_job_on_this_machine_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says nothing of it: the first start leaves word."""
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path / "%j"))
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "12")
    (tmp_path / "12").mkdir()
    assert not resumes(None)
    leave_word_of_start()
    assert resumes(None)
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "13")
    leave_word_of_start()
    assert not resumes(None), "submitit makes the folder"
