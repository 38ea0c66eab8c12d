"""A sweep in TensorBoard's HParams tab, asked as the page asks; names, tags and points of its runs, also resumed."""

from pathlib import Path
from typing import Any

import pytest
from commands import Commands
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_experiment_plugin_data, parse_session_start_info_plugin_data

from metronome.app.run.choices import choices, swept
from metronome.report.events import read_curves


def read(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Of each tag but those that measure time, and the epoch, which Lightning says with each metric."""
    events = read(run)
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("watch/ms_", "watch/epoch"))]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def row(events: EventAccumulator) -> tuple[dict[str, Any], list[str], list[str]]:
    """The choices of a run, those that the sweep varies, and the metrics of its columns."""
    start = parse_session_start_info_plugin_data(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    experiment = parse_experiment_plugin_data(events.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    varied = [info.name for info in experiment.hparam_infos if info.differs]
    return values, varied, [info.name.tag for info in experiment.metric_infos]


@pytest.mark.slow
def test_a_sweep(commands: Commands) -> None:
    sweep = (
        "-m",
        "data.batch_size=64,full",
        "optimizer.lr=0.1",
        "trainer.max_epochs=3",
        "model=mlp",
        "trainer.log_every_n_steps=1",
    )
    done = commands("train", "+experiment=digits", *sweep, "callbacks=[default,histograms]", "trainer=cpu")
    assert done.code == 0, done.err
    assert [run.name for run in done.runs] == ["batch_size=64", "batch_size=full"]
    for run, result, size in zip(done.runs, done.results, (64, 1257), strict=True):
        events = read(run)
        values, varied, metrics = row(events)
        assert values["data.batch_size"] == size
        assert (values["optimizer.lr"], values["epochs"], values["model"]) == (0.1, 3, "mlp")
        assert "callbacks" not in values
        assert varied == ["data.batch_size"]
        assert metrics == ["val/loss_best", "val/acc", "val/loss", "test/acc", "test/loss"]
        losses = [point.value for point in events.Scalars("val/loss")]
        bests = [point.value for point in events.Scalars("val/loss_best")]
        assert bests == [min(losses[: i + 1]) for i in range(3)]
        assert bests[-1] == pytest.approx(result["best"]["value"])
        assert events.Scalars("test/acc")[-1].value == pytest.approx(result["metrics"]["test/acc"])
        assert "weights/network.1.weight" in events.Tags()["histograms"]
        # Nothing of all this is a metric to a report.
        assert {"train/loss", "val/loss", "lr"} <= set(read_curves(run)[0])
        assert not any(tag.startswith(("watch", "by_samples")) or "best" in tag for tag in read_curves(run)[0])


def test_a_run_that_goes_on_has_each_point_once(commands: Commands) -> None:
    short = ("+experiment=digits", "trainer=cpu", "model=mlp", "data.batch_size=300", "trainer.log_every_n_steps=1")
    first = commands("train", *short, "trainer.max_epochs=2", "scheduler=constant", "hydra.run.dir=runs/first")
    assert first.code == 0, first.err
    again = commands("train", *short, "trainer.max_epochs=3", "scheduler=constant",
                     "ckpt_path=runs/first/checkpoints/last.ckpt", "hydra.run.dir=runs/again")  # fmt: skip
    assert again.code == 0, again.err
    assert {"watch/gradient_norm", "watch/update_ratio", "watch/momentum", "val/loss_best"} <= set(
        points(Path("runs/again"))
    )
    for tag, found in points(Path("runs/again")).items():
        steps = [step for step, _ in found]
        assert steps == sorted(set(steps)), f"{tag} has doubled points: {steps}"
    assert len(points(Path("runs/again"))["watch/gradient_norm"]) == 15
    values, _, _ = row(read(Path("runs/again")))
    assert values["epochs"] == 3  # its own choices, though it has the other's curves


def test_choices_are_plain_and_short() -> None:
    config = {"data": {"batch_size": 8}, "optimizer": {"lr": None, "betas": [0.9, 0.99]}, "callbacks": {"x": 1}}
    typed = ["optimizer=adamw", "optimizer.betas=[0.9,0.99]", "callbacks.x=1", "resume=auto", "hydra.verbose=true"]
    assert choices("default", typed, config, None) == {
        "experiment": "default", "data.batch_size": 8, "optimizer": "adamw", "optimizer.betas": "[0.9,0.99]",
    }  # fmt: skip
    assert swept(["a=1"], Path("nowhere")) == ()
