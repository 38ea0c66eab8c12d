"""Where a run goes on: `ckpt_path=last`, a path, `resume=auto`; in which folder, and from which checkpoint."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from commands import Commands, Done, a_process_in
from short_run import EACH_EPOCH, FIRST, JOB, cut_off, make_whole

from metronome.runs.overrides import what_it_is
from metronome.units import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run that came to its end."""
    return make_whole(tmp_path_factory.mktemp("whole"))


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def same(done: Done, run: Path, whole: Path) -> None:
    assert done.code == 0, done.out + done.err
    for name in ("weights_sha256", "metrics", "progress", "plan", "status"):
        assert result(run)[name] == result(whole / FIRST)[name], name


@pytest.fixture
def cut(whole: Path, commands: Commands) -> Path:
    """The same, cut off after two of three epochs, in the folder of the commands."""
    shutil.copytree(whole / "runs", commands.folder / "runs")
    cut_off(commands.folder / FIRST)
    return commands.folder / FIRST


def test_last(cut: Path, whole: Path, commands: Commands) -> None:
    done = commands("train", *JOB, *EACH_EPOCH, "ckpt_path=last")
    same(done, cut, whole)
    assert "goes on    after step 10, from checkpoints/last.ckpt" in done.out
    assert result(cut)["resumed_from"] == {"checkpoint": "checkpoints/last.ckpt", "step": 10}
    assert len(list((commands.folder / "runs/digits").iterdir())) == 1


def test_the_same_command_again(cut: Path, whole: Path, commands: Commands) -> None:
    """In another order of its words; then again, when there is nothing left to do."""
    command = (*EACH_EPOCH, *reversed(JOB))
    same(commands("train", *command, "resume=auto"), cut, whole)
    done = commands("train", *command, "resume=auto", f"hydra.run.dir={FIRST}")
    assert (done.code, done.out.strip()) == (0, "finished before: runs/digits/first/result.json")
    done = commands("train", *command, "resume=auto")
    assert (done.code, len(done.runs)) == (0, 1)


def test_resume_begins_where_there_is_nothing(commands: Commands) -> None:
    done = commands("train", *JOB, "trainer.max_epochs=1", "resume=auto", "hydra.run.dir=mine")
    assert done.code == 0
    assert result(commands.folder / "mine")["resumed_from"] is None


def test_cut_off_before_its_first_checkpoint(cut: Path, whole: Path, commands: Commands) -> None:
    (cut / "checkpoints/last.ckpt").unlink()
    same(commands("train", *JOB, *EACH_EPOCH, "resume=auto"), cut, whole)
    assert result(cut)["resumed_from"] is None


def test_a_path_of_a_run_that_was_cut_off(cut: Path, whole: Path, commands: Commands) -> None:
    same(commands("train", *JOB, *EACH_EPOCH, f"ckpt_path={cut}/checkpoints/last.ckpt"), cut, whole)


def test_a_path_of_a_run_that_is_finished_begins_a_new_one(commands: Commands) -> None:
    """Its curves up to there come along, and nothing of the old run changes."""
    commands("train", *JOB, *EACH_EPOCH, "scheduler=constant", f"hydra.run.dir={FIRST}")
    before = {path: path.stat().st_mtime_ns for path in (commands.folder / FIRST).rglob("*")}
    path = f"{FIRST}/checkpoints/epochs/step=10.ckpt"
    done = commands("train", *JOB, "scheduler=constant", f"ckpt_path={path}", "trainer.max_epochs=4")
    assert done.code == 0, done.err
    new = next(run for run in done.runs if result(run)["status"] == "finished" and run.name != "first")
    assert result(new)["progress"]["steps"] == 20
    assert result(new)["resumed_from"]["step"] == 10
    assert before == {path: path.stat().st_mtime_ns for path in (commands.folder / FIRST).rglob("*")}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(new), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    assert [point.step for point in events.Scalars("watch/lr")] == list(range(20))


@pytest.mark.parametrize("length", [0, -1, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 1000, -1000))])
def test_a_torn_checkpoint_is_passed_over(length: int, cut: Path, whole: Path, commands: Commands) -> None:
    last = cut / "checkpoints/last.ckpt"
    shutil.copy2(last, cut / "checkpoints/before.ckpt")
    os.utime(cut / "checkpoints/before.ckpt", (1, 1))
    last.write_bytes(last.read_bytes()[:length])
    (cut / "checkpoints/best.ckpt.part").write_bytes(b"half")
    done = commands("train", *JOB, *EACH_EPOCH, "resume=auto")
    same(done, cut, whole)
    assert "passed over: checkpoint" in done.out + done.err
    assert result(cut)["resumed_from"]["checkpoint"] == "checkpoints/before.ckpt"
    assert not list(cut.rglob("*.part"))


def test_a_checkpoint_damaged_inside_is_passed_over(cut: Path, whole: Path, commands: Commands) -> None:
    """Blocks of zeros, as a machine that lost its power may leave: only the sums in the file tell."""
    last = cut / "checkpoints/last.ckpt"
    shutil.copy2(last, cut / "checkpoints/before.ckpt")
    content = bytearray(last.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    last.write_bytes(content)
    done = commands("train", *JOB, *EACH_EPOCH, "resume=auto")
    same(done, cut, whole)
    assert result(cut)["resumed_from"]["checkpoint"] == "checkpoints/before.ckpt"


@pytest.mark.parametrize(
    "place", [-1, -60, *(pytest.param(each, marks=pytest.mark.slow) for each in (-30, -200, -400))]
)
def test_a_list_of_contents_that_is_damaged(place: int, cut: Path, whole: Path, commands: Commands) -> None:
    """PyTorch may take such a file."""
    last = cut / "checkpoints/last.ckpt"
    shutil.copy2(last, cut / "checkpoints/before.ckpt")
    os.utime(cut / "checkpoints/before.ckpt", (1, 1))
    content = bytearray(last.read_bytes())
    content[place] ^= 0x40
    last.write_bytes(content)
    same(commands("train", *JOB, *EACH_EPOCH, "resume=auto"), cut, whole)


def test_a_path_of_a_damaged_checkpoint(cut: Path, commands: Commands) -> None:
    last = cut / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    for script, arguments in (("train", (*JOB, f"ckpt_path={last}")), ("evaluate", (str(last),))):
        done = commands(script, *arguments)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "is damaged in archive/" in done.err or "is damaged in last/" in done.err


def test_what_is_not_of_a_run_is_left_alone(whole: Path, commands: Commands) -> None:
    mine = commands.folder / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("my: config\n")
    (mine / "result.json").write_text("{}")
    shutil.copy2(whole / FIRST / "checkpoints/epochs/step=10.ckpt", mine / "last.ckpt")
    done = commands("train", *JOB, "ckpt_path=mine/last.ckpt")
    assert done.code == 0, done.err
    assert (mine / "config.yaml").read_text() == "my: config\n"
    assert sorted(path.name for path in mine.iterdir()) == ["config.yaml", "last.ckpt", "result.json"]
    done = commands("train", *JOB, "ckpt_path=mine/last.ckpt", "hydra.run.dir=mine")
    assert done.code == 2
    assert (mine / "config.yaml").read_text() == "my: config\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.lr=0.5", "optimizer.lr=0.5, and the checkpoint has 0.05, which a run that goes on keeps"),
        ("optimizer=adamw", "and the checkpoint has "),
        ("scheduler=cosine", "and the checkpoint has "),
        ("model.network.hidden=[7]", "is of another model"),
        ("trainer.max_epochs=2", "the checkpoint is of epoch 3, and this run ends with epoch 2"),
        ("budget=4steps", "the checkpoint is of step 15, and this run ends with step 4"),
        ("data.batch_size=100", "in the middle of an epoch with batch_size=256, and this run has batch_size=100"),
    ],
)
def test_a_mistake_destroys_nothing(change: str, words: str, whole: Path, commands: Commands) -> None:
    """The result and the configuration of a finished run stay what they were."""
    shutil.copytree(whole / "runs", commands.folder / "runs")
    run, job = commands.folder / FIRST, JOB
    if "batch_size" in change:
        (run / "checkpoints/last.ckpt").unlink()
        job = (*JOB, "scheduler=constant")
        done = commands(
            "train", *job, "trainer.max_epochs=-1", "trainer.max_steps=7", "hydra.run.dir=runs/digits/second"
        )
        assert done.code == 0
        run = commands.folder / "runs/digits/second"
    before = {name: (run / name).read_text() for name in ("result.json", "config.yaml")}
    if "budget" in change:  # which is no second one beside the limits of the job
        job = tuple(override for override in job if not override.startswith("trainer.max_epochs"))
    done = commands("train", *job, "ckpt_path=last", change)
    assert done.code == 2
    assert words in done.err
    assert before == {name: (run / name).read_text() for name in before}


@pytest.mark.slow
def test_folders_that_count_versions(commands: Commands) -> None:
    """What an earlier start has logged in a folder of its own is taken back too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = (*JOB, *EACH_EPOCH, "logger.tensorboard.version=null", "hydra.run.dir=run")
    for _ in range(3):
        done = commands("train", *options, "resume=auto")
        assert done.code == 0, done.err
        cut_off_again = commands.folder / "run"
        folders = sorted(cut_off_again.glob("version_*"))
        points: list[int] = []
        for folder in folders:
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
            points += (
                [point.step for point in events.Scalars("watch/lr")] if "watch/lr" in events.Tags()["scalars"] else []
            )
        assert sorted(points) == list(range(15))
        (cut_off_again / "result.json").unlink()
        shutil.copy2(cut_off_again / "checkpoints/epochs/step=10.ckpt", cut_off_again / "checkpoints/last.ckpt")
        for path in [*cut_off_again.glob("checkpoints/epochs/step=15*"), cut_off_again / "checkpoints/best.ckpt"]:
            path.unlink(missing_ok=True)


def test_stopped_in_its_test(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code that a cluster expects; and then only the test is left to do."""
    told: list[int] = []

    def step(self: object, batch: object, batch_idx: int) -> None:
        if not told:
            told.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("metronome.models.Classifier.test_step", step)
    done = commands("train", *JOB, "hydra.run.dir=run")
    assert done.code == 143
    assert result(commands.folder / "run")["status"] == "stopped"
    done = commands("train", *JOB, "hydra.run.dir=run", "resume=auto")
    assert done.code == 0
    assert result(commands.folder / "run")["status"] == "finished"


def test_the_folder_may_move(cut: Path, whole: Path, commands: Commands) -> None:
    moved = commands.folder / "runs/digits/elsewhere"
    cut.rename(moved)
    same(commands("train", *JOB, *EACH_EPOCH, "ckpt_path=last"), moved, whole)
    assert result(moved)["best"] == result(whole / FIRST)["best"]


def test_rows_of_a_csv_file(commands: Commands) -> None:
    options = (*JOB, *EACH_EPOCH, "logger=csv", "callbacks.step_time=null")  # which no two runs have alike
    commands("train", *options, "hydra.run.dir=whole")
    shutil.copytree(commands.folder / "whole", commands.folder / "cut")
    cut_off(commands.folder / "cut")
    assert (commands.folder / "cut/metrics.csv").read_text().count("\n") > 15
    done = commands("train", *options, "hydra.run.dir=cut", "resume=auto")
    assert done.code == 0, done.err
    texts = [(commands.folder / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("layout", [("trainer.accumulate_grad_batches=4",), ("trainer.accumulate_grad_batches=auto",)])
def test_another_layout(layout: tuple[str, ...], cut: Path, whole: Path, commands: Commands) -> None:
    """Equal to rounding: here in float32."""
    done = commands("train", *JOB, *EACH_EPOCH, *layout, "ckpt_path=last")
    assert done.code == 0, done.err
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (cut, whole / FIRST))
    for name, tensor in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], tensor, rtol=1e-4, atol=1e-6)
    assert result(cut)["progress"]["steps"] == 15


def test_a_longer_run_goes_on_along_its_own_schedule(cut: Path, commands: Commands) -> None:
    done = commands("train", *JOB, "ckpt_path=last", "trainer.max_epochs=4")
    assert done.code == 0, done.err
    (schedule,) = torch.load(cut / "checkpoints/last.ckpt", weights_only=True)["lr_schedulers"]
    assert schedule["last_epoch"] == 20
    assert schedule["_last_lr"] == [pytest.approx(0.05 / 25 / 1e4)]


def test_last_of_a_finished_run_begins_a_new_one(whole: Path, commands: Commands) -> None:
    """Nothing of it is replaced, and its best stays the best until there is a better one."""
    shutil.copytree(whole / "runs", commands.folder / "runs")
    run = commands.folder / FIRST
    best = result(run)["best"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = commands("train", *JOB, *EACH_EPOCH, "ckpt_path=last", "trainer.max_epochs=4")
    assert done.code == 0, done.err
    (new,) = [other for other in (commands.folder / "runs/digits").iterdir() if other.name != "first"]
    assert result(new)["progress"]["steps"] == 20
    assert result(new)["best"]["value"] <= best["value"]  # a loss
    assert (new / result(new)["best"]["checkpoint"]).is_file()
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.mark.parametrize("last", ["last", f"{FIRST}/checkpoints/last.ckpt"])
def test_a_finished_run_with_the_same_end_has_nothing_left(last: str, whole: Path, commands: Commands) -> None:
    shutil.copytree(whole / "runs", commands.folder / "runs")
    before = {path: path.stat().st_mtime_ns for path in commands.folder.rglob("*")}
    done = commands("train", *JOB, *EACH_EPOCH, f"ckpt_path={last}")
    assert done.code == 2
    assert done.err.startswith(f"error: checkpoint {FIRST}/checkpoints/")
    assert done.err.endswith(
        "is of epoch 3, where this run ends too: nothing is left to train; to train longer let it end later, such as "
        "with trainer.max_epochs=6\n"
    )
    after = {path: path.stat().st_mtime_ns for path in commands.folder.rglob("*")}
    assert {path for path in after if path not in before} == set()
    runs = commands.folder / "runs"
    assert before == after | {path: before[path] for path in (runs, runs / "digits")}  # folders know of a passing guest


@pytest.mark.parametrize("change", ["trainer.max_epochs=4", "trainer.accumulate_grad_batches=2", "data.batch_size=128"])
def test_other_values_replace_nothing_before_they_have_saved(
    change: str, cut: Path, whole: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that dies before leaves the run as it was, for the command that began it."""
    (cut / "result.json").write_text('{"status": "stopped"}')
    names = ("config.yaml", "plan.json", "result.json")
    before = {name: (cut / name).read_text() for name in names}

    def dies(*_: object) -> None:
        assert before == {name: (cut / name).read_text() for name in names}
        raise InputError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("metronome.models.Classifier.training_step", dies)
        done = commands(
            "train",
            *(each for each in JOB if each.split("=")[0] != change.split("=")[0]),
            *EACH_EPOCH,
            "ckpt_path=last",
            change,
        )
        assert done.code == 2
    assert before == {name: (cut / name).read_text() for name in names}
    same(commands("train", *JOB, *EACH_EPOCH, "resume=auto"), cut, whole)


def test_a_schedule_of_torch_cannot_be_longer_than_it_was(commands: Commands) -> None:
    cycle = ("scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "~scheduler.warmup", "+scheduler.max_lr=0.05")
    assert commands("train", *JOB, *cycle, "trainer.max_epochs=1").code == 0
    done = commands("train", *JOB, *cycle, "ckpt_path=last", "trainer.max_epochs=2")
    assert done.code == 2
    assert "the OneCycleLR of the checkpoint ends after 5 steps, and this run has 10" in done.err


def test_one_process_works_in_a_folder(cut: Path, commands: Commands) -> None:
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*") if path.name not in (".lock", "train.log")}
    with a_process_in(cut):
        done = commands("train", *JOB, *EACH_EPOCH, "ckpt_path=last")
    assert done.code == 2
    assert "another process works in the folder runs/digits/first" in done.err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_what_a_run_is() -> None:
    assert what_it_is(["seed=1", "resume=auto", "+a=2", "ckpt_path=x", "hydra.run.dir=y", "hydra/sweeper=z"]) == [
        "+a=2",
        "seed=1",
    ]
