"""The main job, from the command line to what it leaves."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import Commands, Done, run_apart
from forked import run_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

QUICK = ("trainer=cpu", "trainer.max_epochs=2")


def scalars(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """README's main job, in a process of its own, as a user starts it."""
    return run_apart(tmp_path_factory.mktemp("digits"), "train", "+experiment=digits")


def test_the_main_job_learns(digits: Done) -> None:
    assert digits.code == 0, digits.err
    assert digits.result["metrics"]["test/acc"] >= 0.98


def test_result(digits: Done) -> None:
    """Every field of the design, with numbers worked by hand: 1,257 samples / 64 = 20 steps, 15 epochs."""
    result = digits.result
    assert list(result) == [
        *(
            "status",
            "experiment",
            "name",
            "tags",
            "overrides",
            "seed",
            "plan",
            "rates",
            "progress",
            "metrics",
            "tested",
        ),
        "best",
        *("stopped_early", "seconds", "samples_per_second", "peak_memory_bytes", "peak_memory_is_own"),
        *("weights_sha256", "resumed_from"),
        *("out_of_memory", "nonfinite", "watched", "advice", "versions", "git_commit"),
    ]
    assert (result["status"], result["experiment"], result["seed"]) == ("finished", "digits", 0)
    assert result["overrides"] == ["+experiment=digits"]
    assert result["progress"] == {"epochs": 15, "steps": 300, "iterations": 300, "samples": 18_855}
    plan = {key: result["plan"][f"total_{key}"] for key in ("steps", "iterations", "samples")}
    assert result["progress"] == {"epochs": result["plan"]["epochs"]} | plan
    assert [row["epochs"] for row in result["plan"]["per_epoch"]] == [[0, 14]]
    assert (result["best"]["monitor"], result["best"]["mode"], result["stopped_early"]) == ("val/loss", "min", None)
    assert result["best"]["step"] % 20 == 0
    assert result["best"]["checkpoint"] == "checkpoints/best.ckpt"
    assert result["best"]["value"] <= result["metrics"]["val/loss"]
    seconds = result["seconds"]
    assert seconds["total"] >= seconds["fit"] + seconds["test"] > 0
    assert seconds["fit"] >= seconds["train"] + seconds["validation"] + seconds["saving"]
    assert min(seconds.values()) > 0
    assert result["samples_per_second"] == pytest.approx(18_855 / seconds["train"])
    assert result["peak_memory_is_own"] is True
    assert 100e6 < result["peak_memory_bytes"] < 10e9
    assert len(result["weights_sha256"]) == 64
    assert set(result["versions"]) == {"python", "torch", "lightning", "metronome"}
    assert result["watched"]["no_gradients"] is None
    assert len(result["watched"]["gradients"]["step"]) == 7
    assert len(result["watched"]["history"]["val"]) == 15
    assert not [entry for entry in result["advice"] if not entry["symptom"].startswith(("the machine", "steps are"))]
    assert "\nadvice     " in digits.out
    assert {"train/loss", "val/loss", "val/acc", "test/loss", "test/acc"} <= set(result["metrics"])


def test_folder(digits: Done) -> None:
    names = {path.name for path in digits.run.iterdir()}
    assert {"checkpoints", "plan.json", "config.yaml", "train.log", "result.json"} <= names
    assert not any("part" in name for name in names)
    assert {path.name for path in (digits.run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert digits.run.parent == digits.folder / "runs/digits"
    assert json.loads((digits.run / "plan.json").read_text()) == digits.result["plan"]


def test_checkpoints_are_plain_data_with_the_configuration_inside(digits: Done) -> None:
    for name in ("best", "last"):
        checkpoint = torch.load(digits.run / f"checkpoints/{name}.ckpt", weights_only=True)
        about = checkpoint["metronome"]
        assert about["experiment"] == "digits"
        kept = yaml.safe_load((digits.run / "config.yaml").read_text())
        assert about["config"] == {k: v for k, v in kept.items() if k not in ("experiment", "overrides", "in_sweep")}


def test_terminal(digits: Done) -> None:
    for words in ("1,257 / 64 = 20 steps", "15 epochs = 300 steps", "epoch 15/15  step 300/300", "test/acc 0.9"):
        assert words in digits.out
    assert "Traceback" not in digits.err
    assert "Warning" not in digits.err


def test_tensorboard_files(digits: Done) -> None:
    events = scalars(digits.run)
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "watch/lr", "test/acc"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(4, 300, 5))
    assert [event.step for event in events.Scalars("watch/lr")] == list(range(4, 300, 5))
    assert [event.step for event in events.Scalars("val/loss")] == list(range(19, 300, 20))
    texts = {
        tag: events.Tensors(f"{tag}/text_summary") for tag in ("command", "configuration", "plan", "result", "advice")
    }
    assert {tag: [text.step for text in found] for tag, found in texts.items()} == {
        "command": [0], "configuration": [0], "plan": [0], "result": [300], "advice": [300],
    }  # fmt: skip
    words = {tag: found[0].tensor_proto.string_val[0].decode() for tag, found in texts.items()}
    assert words["command"] == f"    python scripts/train.py {' '.join(digits.result['overrides'])}"
    assert "| `data.batch_size` | `64` |" in words["configuration"]
    assert words["configuration"].count("optimizer.lr") == 1
    assert f"| weights_sha256 | `{digits.result['weights_sha256']}` |" in words["result"]
    assert f"| test/acc | {digits.result['metrics']['test/acc']:.4g} |" in words["result"]


def test_the_same_command_gives_the_same_weights(commands: Commands) -> None:
    for workers in (0, 0, 2):
        done = commands("train", "+experiment=digits", *QUICK, f"data.num_workers={workers}")
        assert done.code == 0, done.err
    digests = {result["weights_sha256"] for result in done.results}
    assert len(done.results) == 3, "one run, one folder"
    assert len(digests) == 1
    done = commands("train", "+experiment=digits", *QUICK, "seed=1")
    assert len({result["weights_sha256"] for result in done.results}) == 2


@pytest.mark.parametrize(
    ("overrides", "per_epoch", "total"),
    [
        (("data.batch_size=10", "trainer.max_epochs=2"), 100, 200),
        (("data.batch_size=100", "trainer.max_epochs=5"), 10, 50),
        (("data.batch_size=200", "trainer.max_epochs=5"), 5, 25),
        (("data.batch_size=64", "trainer.max_epochs=3"), 16, 48),
        (("data.batch_size=64", "trainer.max_epochs=3", "data.drop_last=true"), 15, 45),
        (("data.batch_size=full", "trainer.max_epochs=3"), 1, 3),
        (("data.batch_size=64", "budget=20steps"), 16, 20),
        (("data.batch_size=64", "budget=2000 samples"), 16, 32),
        (("data.batch_size=64", "budget=2 epochs", "trainer.accumulate_grad_batches=3"), 16, 32),
        (("data.batch_size=64", "trainer.max_epochs=2", "trainer.limit_train_batches=5"), 5, 10),
        (("data.batch_size=125", "trainer.max_epochs=3", "data.batch_growth={factor: 2}"), 8, 14),  # 8 + 4 + 2
    ],
)
def test_worked_numbers(overrides: tuple[str, ...], per_epoch: int, total: int, commands: Commands) -> None:
    """1,000 samples: what was planned, and what was counted in training."""
    done = commands("train", "+experiment=linear", "trainer=cpu", "logger=none", *overrides)
    assert done.code == 0, done.err
    plan, progress = done.result["plan"], done.result["progress"]
    assert (plan["steps_per_epoch"], plan["total_steps"]) == (per_epoch, total)
    assert progress == {
        "epochs": plan["epochs"],
        "steps": total,
        "iterations": plan["total_iterations"],
        "samples": plan["total_samples"],
    }


def test_linear_finds_the_noise(commands: Commands) -> None:
    """The noise has a standard deviation of 0.1, so no model does better than a squared error of 0.01."""
    result = commands("train", "+experiment=linear", "trainer=cpu").result
    assert result["metrics"]["test/loss"] == pytest.approx(0.01, rel=0.2)


def test_layouts_agree_from_the_command_line(tmp_path: Path) -> None:
    """The main job in float64: 1,257 samples in batches of 100: the last one holds 57."""
    job = ("+experiment=digits", "trainer=cpu", "data.batch_size=100", "logger=none")
    weights: list[dict[str, Any]] = []
    for extra in ((), ("trainer.accumulate_grad_batches=7",), ("trainer=ddp_cpu", "trainer.accumulate_grad_batches=3")):
        done = run_forked(tmp_path, "train", *job, *extra, "trainer.precision=64-true", "trainer.max_epochs=2")
        assert done.code == 0, done.err
        last = max(done.runs, key=lambda run: (run / "result.json").stat().st_mtime_ns)
        weights.append(torch.load(last / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        result = json.loads((last / "result.json").read_text())
        assert result["progress"]["steps"] == 26
        assert result["progress"]["iterations"] == result["plan"]["total_iterations"]
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-12, atol=1e-14)


def test_resume_from_the_command_line(commands: Commands) -> None:
    job = ("+experiment=digits", "trainer=cpu", "logger=none", "scheduler=constant", "data.batch_size=100")
    whole = commands("train", *job, "budget=20 steps").result["weights_sha256"]
    done = commands("train", *job, "budget=9 steps")  # of 13 in an epoch
    short = next(run for run in done.runs if json.loads((run / "plan.json").read_text())["total_steps"] == 9)
    done = commands("train", *job, "budget=20 steps", f"ckpt_path={short}/checkpoints/last.ckpt")
    assert [r["weights_sha256"] for r in done.results if r["progress"]["steps"] == 20] == [whole, whole]


@pytest.mark.parametrize(
    "overrides",
    [
        ("+debug=fast",),
        ("+debug=overfit", "trainer.max_epochs=3"),
        ("+debug=profile",),
        pytest.param(("+debug=anomaly", "trainer.max_epochs=1"), marks=pytest.mark.slow),
        pytest.param(("logger=csv", "trainer.max_epochs=1"), marks=pytest.mark.slow),
        ("callbacks=none", "trainer.max_epochs=1"),
        ("model=mlp", "optimizer=adamw", "scheduler=cosine", "trainer.max_epochs=1"),
        pytest.param(
            ("model=mlp", "optimizer=adam", "scheduler=constant", "trainer.max_epochs=1"), marks=pytest.mark.slow
        ),
        ("model=mlp", "optimizer=sgd", "trainer.max_epochs=1", "test=false"),
        ("model=mlp", "trainer.compile=eager", "trainer.max_epochs=1"),
        (
            "trainer.max_epochs=1",
            "data.num_workers=1",
            "trainer.check_val_every_n_epoch=null",
            "trainer.val_check_interval=7",
        ),
    ],
)
def test_presets_and_groups_run(overrides: tuple[str, ...], commands: Commands) -> None:
    done = commands("train", "+experiment=digits", "trainer=cpu", *overrides)
    assert done.code == 0, done.err
    assert done.result["status"] == "finished"
    assert ("test/acc" in done.result["metrics"]) == ("test=false" not in overrides)
    assert not (done.folder / "lightning_logs").exists()
    assert not (done.folder / "checkpoints").exists()


def test_whether_a_layout_is_exact(commands: Commands) -> None:
    """One line for a network without BatchNorm; the reason, and the layers, for one with it. Nothing is trained."""
    done = commands("train", "+experiment=digits", "trainer=ddp_cpu", "+debug=layout")
    assert done.code == 0, done.err
    assert re.findall(r"^(?:exact|not exact|reason).*", done.out, re.M) == [
        line for line in done.out.splitlines() if line.startswith("exact      the first batch (64 samples), whole and")
    ]
    assert "cut in 2 and 4: loss and gradient are the same, to " in done.out
    assert (done.result["status"], done.result["progress"]["steps"]) == ("finished", 0)
    assert done.result["progress"]["samples"] == 0
    assert not (done.folder / "lightning_logs").exists()
    assert not (done.run / "checkpoints").exists()


def test_why_a_layout_is_not_exact(commands: Commands) -> None:
    job = ("+experiment=digits", "model=resnet", "trainer=cpu", "trainer.accumulate_grad_batches=3", "+debug=layout",
           "model.network.num_channels=1", "model.network.widths=[8,8]", "model.network.blocks=[1,1]",
           "model.network.normalize=batch")  # fmt: skip
    done = commands("train", *job, "callbacks=none", "scheduler=plateau")
    assert done.code == 0, done.err
    assert "not exact  the first batch (64 samples), whole and cut in 3: relative differences in 64-true" in done.out
    assert "reason     BatchNorm (network." in done.out
    assert done.out.count("reason     ") == 1


@pytest.mark.slow
def test_overfitting_takes_the_same_batches(commands: Commands) -> None:
    result = commands("train", "+experiment=digits", "trainer=cpu", "+debug=overfit", "trainer.max_epochs=60").result
    assert result["metrics"]["train/loss_epoch"] < 0.05
    assert result["progress"]["steps"] == 180


def test_a_run_from_another_folder(commands: Commands, tmp_path: Path) -> None:
    """Runs land where the command is typed."""
    (tmp_path / "elsewhere").mkdir()
    commands.folder = tmp_path / "elsewhere"
    done = commands("train", "+experiment=linear", "trainer=cpu", "trainer.max_epochs=1")
    assert done.run.is_relative_to(tmp_path / "elsewhere/runs/linear")


def test_a_folder_is_never_shared(commands: Commands) -> None:
    job = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "hydra.run.dir=runs/mine")
    first = commands("train", *job)
    second = commands("train", *job)
    assert (first.code, second.code) == (0, 2)
    assert "runs/mine holds a run already" in second.err
    assert second.result["status"] == "finished", "the first run's result stays"
