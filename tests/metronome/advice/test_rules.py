"""Each rule on runs made up for it: where it fires, where it must not, and that what it says can be typed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT
from hydra import compose, initialize_config_dir

from metronome.advice import advise
from metronome.advice.advise import RULES
from metronome.advice.facts import Facts
from metronome.advice.gradients import Gradients

POINTS = 12
VAL = [2.0, 1.4, 1.0, 0.8, 0.7, 0.62, 0.57, 0.54, 0.52, 0.51, 0.505, 0.502]


def healthy() -> tuple[dict[str, Any], dict[str, Any]]:
    """Result and configuration of a run with nothing to advise: 1,257 samples in batches of 64, 12 epochs."""
    count = len(VAL)
    result: dict[str, Any] = {
        "status": "finished",
        "plan": {"num_samples": 1_257, "batch_size": 64, "micro_batch_size": 64, "devices": 1,
                 "accumulate_grad_batches": 1},
        "progress": {"epochs": count, "steps": 20 * count, "samples": 1_257 * count},
        "best": {"monitor": "val/loss", "value": VAL[-1]},
        "seconds": {"train": 20.0, "validation": 1.0},
        "peak_memory_bytes": 10 * 2**30, "nonfinite": [],
        "watched": {
            "device": "cpu", "device_memory_bytes": None, "threads": 1, "cores": 8, "batch_norm": False,
            "cpu_seconds": 20.0, "wall_seconds": 21.0, "first_loss": 2.3, "highest_loss": 2.4,
            "pass_ms": 1.0, "sample_ms": 0.1,
            "step_ms": {"data": 0.5, "forward_backward": 10.0, "optimizer": 1.0, "rest": 0.5},
            "history": {"step": [20 * (i + 1) for i in range(count)], "epoch": list(range(1, count + 1)), "val": VAL,
                        "train": [0.9 * v for v in VAL], "train_std": [0.05] * count, "lr": [0.1] * count},
            "gradients": {"samples": [32] * POINTS, "squared": [1.0 + 0.01 * i for i in range(POINTS)],
                          "trace": [100.0] * POINTS, "gain": [1.0] * POINTS, "curvature": [0.8] * POINTS},
        },
    }  # fmt: skip
    config = {
        "experiment": "digits", "overrides": ["+experiment=digits"], "budget": None,
        "data": {"batch_size": 64, "drop_last": False, "num_workers": 0,
                 "batch_growth": {"factor": None, "every": "1 epoch", "max": None, "accumulate": True}},
        "model": {"network": {"channels": [32, 32]}},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.05, "scale_lr": "none"},
        "trainer": {"max_epochs": count, "max_steps": -1, "check_val_every_n_epoch": 1, "val_check_interval": 1.0,
                    "gradient_clip_val": None, "accumulate_grad_batches": 1},
        "num_threads": 1, "monitor": "val/loss", "mode": None,
        "callbacks": {"checkpoint": {"monitor": "val/loss", "mode": None}},
    }  # fmt: skip
    return result, config


def made(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The healthy run with other values, by their keys with dots: `result.plan.batch_size`, `config.budget`."""
    result, config = copy.deepcopy(healthy())
    for key, value in changes.items():
        *way, last = key.split(".")
        place: Any = {"result": result, "config": config}
        for name in way:
            place = place[name]
        place[last] = value
    return result, config


def batch(size: int, **more: Any) -> dict[str, Any]:
    return {
        "result.plan.batch_size": size,
        "result.plan.micro_batch_size": size,
        "config.data.batch_size": size,
        **more,
    }


def history(name: str, values: list[float]) -> dict[str, Any]:
    return {f"result.watched.history.{name}": values}


NOISY_POINTS = {"result.watched.gradients.curvature": [0.5, -0.5] * (POINTS // 2)}
WILD = [2.0, 0.9, 0.5, 0.9, 0.4, 1.0, 0.5, 0.8, 0.4, 0.9, 0.5, 0.7]
PAST = [2.0, 1.0, 0.6, 0.5, 0.52, 0.55, 0.6, 0.62, 0.65, 0.7, 0.72, 0.75]
TRAIN_ON = [2.0, 1.0, 0.5, 0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03]
FALLS = [2.0 - 0.12 * i for i in range(12)]
RESTS = [2.2, 1.9, 1.7, 1.6, 1.55, 1.52, 1.51, 1.5, 1.5, 1.5, 1.49, 1.49]
GPU = {"result.watched.device": "cuda", "result.watched.device_memory_bytes": 80 * 2**30}
NOT_FINITE = [{"step": 7, "epoch": 1, "learning_rate": 50.0, "loss": "nan", "gradient_norm": None, "samples": [1, 2]}]
STEEP = {"result.watched.gradients.curvature": [0.01] * POINTS}

# symptom (its beginning), changes with which it is there, flags (all of them), changes with which it is not
BESIDE_OTHERS = {"result.watched.preempted": 9_000}
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("the loss diverged", {"result.nonfinite": NOT_FINITE, "result.status": "failed"},
     "optimizer.lr=0.005 trainer.gradient_clip_val=1", {}),
    ("steps were not finite", {"result.nonfinite": NOT_FINITE}, "optimizer.lr=0.025 trainer.gradient_clip_val=1", {}),
    ("the loss jumped away", {"result.watched.highest_loss": 9.0, **history("train", [2.3] * 12)}, "optimizer.lr=0.005",
     {"result.watched.highest_loss": 9.0}),
    ("the loss jumped away", {"result.watched.highest_loss": 9.0, **history("train", [1.9] * 12)}, "optimizer.lr=0.005",
     {"result.watched.highest_loss": 9.0, **history("train", [1.6] * 12)}),
    # Numbers of unlike size, one batch easier than others, and a rate that is too small: nothing has jumped.
    ("the loss jumped away", {"result.watched.highest_loss": 9.0, **history("train", [2.3] * 12)}, "optimizer.lr=0.005",
     {"result.watched.highest_loss": 9.0, **history("train", [2.3] * 12), **history("train_std", [1.5] * 12)}),
    ("the loss jumped away", {"result.watched.highest_loss": 9.0, **history("train", [2.3] * 12)}, "optimizer.lr=0.005",
     {"result.watched.highest_loss": 9.0, **history("train", [2.3] * 12), "result.progress.steps": 3}),
    ("the loss oscillates", {**history("val", WILD), **history("train", WILD)}, "optimizer.lr=0.013",
     history("val", [*WILD[:2], *VAL[2:]])),
    ("the loss oscillates", batch(8, **history("val", WILD), **history("train", WILD)),
     "data.batch_size=32 optimizer.lr=0.05", batch(8)),
    ("the learning rate is far too small", {**STEEP, **history("val", FALLS), **history("train", FALLS)},
     "optimizer.lr=1.1", {**STEEP, **history("train", TRAIN_ON)}),
    ("the batch is far below", batch(4), "data.batch_size=64 optimizer.lr=0.5 trainer.max_epochs=20", batch(48)),
    ("the batch is far above", batch(1_257), "data.batch_size=128 optimizer.lr=0.031", batch(256)),
    ("Rprop on mini-batches", {"config.optimizer._target_": "torch.optim.Rprop"},
     "data.batch_size=full trainer.max_epochs=236",
     batch(1_257, **{"config.optimizer._target_": "torch.optim.Rprop"})),
    ("L-BFGS on mini-batches", {"config.optimizer._target_": "metronome.models.optimizers.lbfgs"},
     "data.batch_size=full trainer.max_epochs=236", {}),
    ("BatchNorm on micro-batches", {"result.watched.batch_norm": True, "result.plan.micro_batch_size": 4,
                                    "result.plan.accumulate_grad_batches": 16}, "trainer.accumulate_grad_batches=4",
     {"result.watched.batch_norm": True}),
    ("over-fitting", {**history("val", PAST), **history("train", TRAIN_ON)}, "trainer.max_epochs=4",
     history("val", [*PAST[:4], *[0.5] * 8])),
    ("over-fitting", {**history("val", PAST), **history("train", TRAIN_ON), "config.budget": "240 steps"},
     "budget=80steps", {}),
    ("under-fitting", {**history("val", RESTS), **history("train", RESTS)}, "'model.network.channels=[128,128]'",
     {**history("val", RESTS), **history("train", [*RESTS[:-2], 0.3, 0.2])}),
    # Where it is not known that longer steps would not have paid.
    ("under-fitting", {**history("val", RESTS), **history("train", RESTS)}, "'model.network.channels=[128,128]'",
     {**history("val", RESTS), **history("train", RESTS), **NOISY_POINTS}),
    ("the run failed", {"result.status": "failed", "result.error": "the disk is full"}, "",
     {"result.status": "stopped"}),
    ("the training loss stays high", {**history("val", RESTS), **history("train", RESTS), **NOISY_POINTS,
                                      "config.callbacks.lr_finder": {"take": False}},
     "callbacks.lr_finder.take=true", {**NOISY_POINTS, "config.callbacks.lr_finder": {"take": False}}),
    ("the training loss stays high", {**history("val", RESTS), **history("train", RESTS), **NOISY_POINTS},
     "callbacks=lr_finder", {**history("val", RESTS), **history("train", [*RESTS[:-2], 0.5, 0.5]), **NOISY_POINTS}),
    # A loss that has come far down: its moves are parts of little.
    ("the loss oscillates", {**history("val", WILD), **history("train", WILD)}, "optimizer.lr=0.013",
     {**history("val", WILD), **history("train", TRAIN_ON)}),
    # A schedule that has brought the rate down in the second half.
    ("the learning rate is far too small", {**STEEP, **history("val", FALLS), **history("train", FALLS),
                                            **history("lr", [0.1] * 6 + [0.05] * 6)}, "optimizer.lr=0.54",
     {**STEEP, **history("val", FALLS), **history("train", FALLS), **history("lr", [0.1] * 6 + [0.002] * 6)}),
    ("the loss is still falling", {**history("val", FALLS), **history("train", FALLS)}, "trainer.max_epochs=24",
     {**history("val", FALLS), **history("train", FALLS), "result.status": "stopped"}),
    ("the loss is still falling", {**history("val", FALLS), **history("train", FALLS), "config.budget": "30epochs"},
     "budget=60epochs", {**history("val", FALLS), **history("train", FALLS), "result.status": "stopped"}),
    ("the loss is still falling", {**history("val", FALLS), **history("train", FALLS), "config.budget": "1e4 samples"},
     "budget=20000samples", {}),
    ("steps wait for data", {"result.watched.step_ms.data": 20.0}, "data.num_workers=8",
     {"result.watched.step_ms.data": 2.0}),
    ("steps wait for data", {"result.watched.step_ms.data": 40.0, **BESIDE_OTHERS}, "data.num_workers=8",
     {"result.watched.step_ms.data": 9.0, **BESIDE_OTHERS}),
    ("validation takes much", {"result.seconds.validation": 20.0, "result.progress.epochs": 100},
     "trainer.check_val_every_n_epoch=10", {"result.seconds.validation": 4.0}),
    ("steps are dominated by overhead", batch(32, **{"result.watched.pass_ms": 20.0}),
     "data.batch_size=64 optimizer.lr=0.08", batch(32)),
    ("steps are dominated by overhead", batch(32, **{"result.watched.pass_ms": 20.0}),
     "data.batch_size=64 optimizer.lr=0.08", batch(32, **{"result.watched.pass_ms": 20.0, **BESIDE_OTHERS})),
    ("passes are dominated by overhead", {"result.watched.pass_ms": 20.0, "result.plan.accumulate_grad_batches": 8,
                                          "result.plan.micro_batch_size": 8}, "trainer.accumulate_grad_batches=4", {}),
    ("accumulation is higher", {**GPU, "result.plan.accumulate_grad_batches": 4}, "trainer.accumulate_grad_batches=1",
     {**GPU, "result.plan.accumulate_grad_batches": 4, "result.peak_memory_bytes": 50 * 2**30}),
    ("most of the memory is idle", batch(32, **GPU), "data.batch_size=64 optimizer.lr=0.08", {**GPU}),
    ("devices have unequal shares", batch(26, **{"result.plan.devices": 8}), "data.batch_size=24",
     batch(64, **{"result.plan.devices": 8})),
    ("one device waits", {"result.plan.devices": 2, "result.watched.data_ms_of_devices": [0.5, 9.0]}, "",
     {"result.plan.devices": 2, "result.watched.data_ms_of_devices": [0.5, 0.6]}),
    ("the machine is busy", {"result.watched.wall_seconds": 90.0}, "", {"result.watched.wall_seconds": 25.0}),
    ("the machine is busy", {"result.watched.wall_seconds": 90.0, "result.watched.preempted": 9_000}, "",
     {"result.watched.wall_seconds": 90.0, "result.watched.preempted": 90}),
    ("more threads", {"result.watched.threads": 4, "result.watched.cpu_seconds": 70.0,
                      "result.watched.step_ms.forward_backward": 1.0, "result.watched.step_ms.data": 0.0},
     "num_threads=1", {"result.watched.threads": 4, "result.watched.cpu_seconds": 70.0}),
    ("the last batch of an epoch is tiny", batch(100, **{"result.plan.num_samples": 1_001}), "data.drop_last=true",
     batch(100, **{"result.plan.num_samples": 1_001, "config.data.drop_last": True})),
]  # fmt: skip
IDS = [f"{i} {case[0]}" for i, case in enumerate(CASES)]


def test_a_healthy_run() -> None:
    assert advise(*healthy()) == []


@pytest.mark.parametrize(("symptom", "there", "flags", "absent"), CASES, ids=IDS)
def test_where_it_fires_and_where_not(symptom: str, there: dict[str, Any], flags: str, absent: dict[str, Any]) -> None:
    found = advise(*made(**there))
    assert found, "nothing was said"
    said = next((advice for advice in found if advice.symptom.startswith(symptom)), None)
    assert said is not None, [advice.symptom for advice in found]
    assert said.flags == flags
    assert said.evidence
    assert said.advice
    assert not any(advice.symptom.startswith(symptom) for advice in advise(*made(**absent)))


def test_every_rule_is_tested() -> None:
    fired = {rule for _, there, _, _ in CASES for rule in RULES if rule(Facts.of(*made(**there))) is not None}
    assert fired == set(RULES)


@pytest.mark.parametrize(("symptom", "there", "flags", "absent"), CASES, ids=IDS)
def test_flags_compose(symptom: str, there: dict[str, Any], flags: str, absent: dict[str, Any]) -> None:
    typed = [flag.strip("'") for flag in flags.split()]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        of_run = ["callbacks=lr_finder"] if "config.callbacks.lr_finder" in there else []
        config = compose("train", ["+experiment=digits", *of_run, *typed])
    for flag in typed:
        assert flag.split("=")[0].split(".")[0] in config


def test_what_matters_most_comes_first_and_explains_the_rest() -> None:
    """A rate far too small: that the loss still falls follows from it; that data are waited for does not."""
    changes = {**STEEP, **history("val", FALLS), **history("train", FALLS), "result.watched.step_ms.data": 5.0}
    found = [advice.symptom for advice in advise(*made(**changes))]
    assert found == ["the learning rate is far too small", "steps wait for data"]


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({"config.optimizer.scale_lr": "linear"}, "data.batch_size=64 trainer.max_epochs=20"),
        ({"config.optimizer._target_": "torch.optim.AdamW"},
         "data.batch_size=64 optimizer.lr=0.16 trainer.max_epochs=20"),
        ({"config.budget": "500 steps"}, "data.batch_size=64 optimizer.lr=0.5 budget=51steps"),
        ({"config.trainer.max_steps": 500}, "data.batch_size=64 optimizer.lr=0.5 trainer.max_steps=51"),
        ({"config.budget": "90 min"}, "data.batch_size=64 optimizer.lr=0.5"),
    ],
)  # fmt: skip
def test_what_another_batch_means_for_rate_and_length(changes: dict[str, Any], flags: str) -> None:
    assert advise(*made(**batch(4, **changes)))[0].flags == flags


ACCURACY = [0.3, 0.9, 0.6, 0.95, 0.5, 0.9, 0.6, 0.9, 0.5, 0.9, 0.6, 0.95]


@pytest.mark.parametrize(
    "changes",
    [
        {"config.monitor": "val/acc", "config.callbacks": {"checkpoint": {"monitor": "val/acc", "mode": None}},
         "result.best": None},
        {"result.best": {"monitor": "val/score", "mode": "max", "value": 0.95}},
        {"result.watched.monitor": "val/score", "result.watched.mode": "max"},
    ],
    ids=["by its name", "as the best was chosen", "as it was seen"],
)  # fmt: skip
def test_a_metric_of_which_more_is_better_is_no_loss(changes: dict[str, Any]) -> None:
    """Its mode is open in the configuration: an accuracy that went up from the first epoch on is no over-fitting."""
    for values in (ACCURACY, sorted(ACCURACY)):
        assert advise(*made(**changes, **history("val", values), **history("train", TRAIN_ON))) == []


def test_a_module_that_makes_its_own_optimizer() -> None:
    """The group `optimizer` is in each configuration; what is typed of it would change nothing there."""
    smaller = {**history("val", WILD), **history("train", WILD), "result.watched.lr": 0.002}
    assert advise(*made(**smaller))[0].flags == ""
    assert advise(*made(**smaller, **{"config.model.lr": 0.002}))[0].flags == "model.lr=0.0005"
    given = {"config.model.optimizer": {"lr": 0.05}}  # a scaled rate
    assert advise(*made(**smaller, **given))[0].flags == "optimizer.lr=0.013"


def test_a_batch_that_grows_is_not_judged_by_its_first_size() -> None:
    assert advise(*made(**batch(4)))
    assert advise(*made(**batch(4, **{"config.data.batch_growth.factor": 2}))) == []


def test_a_run_that_stopped_early_or_is_of_few_batches() -> None:
    past = {**history("val", PAST), **history("train", TRAIN_ON)}
    assert advise(*made(**past))
    assert advise(*made(**past, **{"result.stopped_early": "no better val/loss for 5 validations"})) == []
    few = {"config.trainer.overfit_batches": 1}
    assert advise(*made(**past, **few)) == []
    assert advise(*made(**batch(4, **few))) == []
    assert advise(*made(**history("val", FALLS), **history("train", FALLS), **few))


def test_flags_of_two_pieces_of_advice_go_together() -> None:
    """BatchNorm and overhead both want another batch: the first has its way."""
    found = advise(*made(**batch(4, **{"result.watched.batch_norm": True, "result.watched.pass_ms": 20.0})))
    keys = [flag.partition("=")[0] for advice in found for flag in advice.flags.split()]
    assert found[0].symptom.startswith("BatchNorm")
    assert len(keys) == len(set(keys))


def test_flags_that_cannot_be_typed_are_none() -> None:
    """Of data written elsewhere: no such key, or the samples of one device's batch."""
    assert advise(*made(**batch(4)))[0].flags
    assert advise(*made(**batch(4, **{"config.data": {"path": "x"}})))[0].flags == ""
    assert advise(*made(**batch(4, **{"config.data.batch_size": 2, "result.plan.devices": 2})))[0].flags == ""


def test_damaged_and_old_results() -> None:
    """Nothing is said of what is not known; and nothing breaks."""
    result, config = healthy()
    assert advise({}, {}) == []
    assert advise({"nonfinite": "x", "plan": [], "watched": 3, "seconds": None}, {"optimizer": 1}) == []
    for key in list(result):
        for value in (None, "x", [], 3):
            advise({**result, key: value}, config)
    for key in list(result["watched"]):
        for value in (None, "x", [], {"a": "b"}, [None, "nan"]):
            advise({**result, "watched": {**result["watched"], key: value}}, config)
    old = {**result, "nonfinite": NOT_FINITE, "status": "failed"}
    del old["watched"]
    assert [advice.symptom for advice in advise(old, config)] == ["the loss diverged"]


def test_the_direction_is_that_of_the_result() -> None:
    """In the configuration it is null where it was worked out: an accuracy that rises is no over-fitting."""
    rises = {**history("val", [1 - v / 3 for v in VAL]), "config.callbacks.checkpoint.mode": None}
    best = {"monitor": "val/acc", "mode": "max", "value": 0.83}
    assert advise(*made(**rises, **{"result.best": best})) == []
    assert advise(*made(**rises, **{"result.best": best | {"mode": "min"}}))[0].symptom.startswith("over-fitting")


def test_noise_of_a_noisy_estimate_gives_no_verdict() -> None:
    """Points of which a third is negative: the noise scale may be anything, and no batch is far from it."""
    noisy = {"result.watched.gradients.squared": [30.0, -28.0, 5.0, 25.0, -20.0, -9.0] * 2}
    scale = Gradients.of(made(**noisy)[0]["watched"]["gradients"]).noise_scale
    assert scale is not None
    assert scale.high == float("inf")
    for size in (8, 1_257):
        assert not [a for a in advise(*made(**batch(size, **noisy))) if a.symptom.startswith("the batch is far")]


def test_a_training_at_rest_gives_no_verdict() -> None:
    """Its gradient is gone, so that any batch is below the noise: its estimate is below nothing, its bound is not."""
    gone = {"result.watched.gradients.squared": [0.02, -0.06, 0.03, -0.05] * 3}
    scale = Gradients.of(made(**gone)[0]["watched"]["gradients"]).noise_scale
    assert scale is not None
    assert scale.low > 64 * 8
    assert scale.value == float("inf")
    assert advise(*made(**gone)) == []


def test_predicted_steps_and_samples() -> None:
    """S = S_min (1 + B_noise/B), E = E_min (1 + B/B_noise), by hand: batches of 4 and 64, a noise scale of 94.8."""
    said = advise(*made(**batch(4)))[0]
    steps, samples = (1 + 94.8 / 64) / (1 + 94.8 / 4), (1 + 64 / 94.8) / (1 + 4 / 94.8)
    assert f"in {steps:.2g} times the steps, {samples:.2g} times the samples" in said.advice


def test_script(tmp_path: Path, commands: Any) -> None:
    for i, changes in enumerate([{}, batch(4), batch(4), {"result.nonfinite": NOT_FINITE, "result.status": "failed"}]):
        result, config = made(**changes)
        folder = tmp_path / "runs" / str(i)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "config.yaml").write_text(json.dumps(config))
    few = commands("advise", "runs")
    assert few.code == 0, few.err
    assert "nothing to advise" in few.out
    assert "     add   data.batch_size=64 optimizer.lr=0.5 trainer.max_epochs=20\n" in few.out
    assert max(map(len, few.out.splitlines())) < 80
    for i in range(4, 8):
        (tmp_path / "runs" / str(i)).mkdir()
        for name in ("result.json", "config.yaml"):
            (tmp_path / "runs" / str(i) / name).write_text((tmp_path / "runs" / str(i - 3) / name).read_text())
    many = commands("advise", "runs")
    assert "1 of 8  healthy" in many.out
    assert "5 of 8  the batch is far below the noise scale" in many.out
    assert max(map(len, many.out.splitlines())) < 80
    (tmp_path / "runs/0/result.json").write_text("{")
    assert "not read" in commands("advise", "runs").out
    for path, words in (("nowhere", "no folder nowhere"), ("runs/0", "cannot be read"), ("runs/1/result.json", "file")):
        failed = commands("advise", path)
        assert failed.code != 0
        assert words in failed.err
        assert "Traceback" not in failed.err
