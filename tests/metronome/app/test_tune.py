"""What tune chooses is as fast as the best there is, and it says what it knows and what it predicts."""

import csv
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import lightning as L
import pytest
import torch
from against_grid import SEEDS, compare, configured
from commands import PROJECT, Commands
from torch import nn

from metronome.app.tune import story
from metronome.app.tune.search import Tuner, candidates
from metronome.app.tune.story import find
from metronome.app.tune.text import Tuned, choice_lines
from metronome.runs.folders import runs_in
from metronome.units import InputError

QUICK = ("+experiment=linear", "trainer=cpu", "num_threads=1", "seeds=1", "sizes=[10,50]")


class Law:
    """S = S_min (1 + B_crit / B) at the best rate, lr_max / (1 + B_crit / B), and a parabola of logarithms beside it;
    from four times the best rate on nothing comes to the target."""

    def __init__(self, s_min: float, b_crit: float, lr_max: float) -> None:
        self.s_min, self.b_crit, self.lr_max, self.steps = s_min, b_crit, lr_max, 0.0

    def of(self, size: int, rate: float) -> float:
        off = math.log2(rate * (1 + self.b_crit / size) / self.lr_max)
        return math.inf if off >= 2 else self.s_min * (1 + self.b_crit / size) * (1 + 0.3 * off**2)

    def __call__(self, size: int, rate: float, seed: int, cap: float) -> float | None:
        steps = self.of(size, rate) * (1 + 0.03 * math.sin(7 * seed + 11 * math.log(size) + 13 * math.log(rate)))
        self.steps += min(steps, cap)
        return steps if steps <= cap else None


@pytest.mark.parametrize("rate", [0.8, 0.01, 50.0], ids=["near", "far too small", "far too large"])
@pytest.mark.parametrize("own", [8, 1024])
@pytest.mark.parametrize(("b_crit", "noise_scale"), [(15, 86), (400, 300), (3, None)])
@pytest.mark.parametrize("overhead", [0.0, 100.0, 3000.0], ids=["compute", "digits", "overhead"])
def test_a_known_law(b_crit: float, noise_scale: float | None, own: int, rate: float, overhead: float) -> None:
    law, sizes = Law(50, b_crit, 0.8), candidates(4096, own)

    def seconds(size: int) -> float:
        return overhead + size

    tuner = Tuner(law, seconds, sizes, SEEDS, lambda size: 50_000.0)
    tuner.tune(own, rate, lambda: noise_scale)
    fastest = tuner.fastest
    best = min(law.s_min * (1 + b_crit / size) * seconds(size) for size in sizes)
    assert law.of(fastest, tuner.best[fastest]) * seconds(fastest) <= 1.15 * best
    assert len(tuner.steps[fastest, tuner.best[fastest]]) == len(SEEDS), "the choice is one that was confirmed"
    assert sum(map(len, tuner.steps.values())) <= 50
    scaling = tuner.scaling
    assert scaling is not None
    assert scaling.b_crit == pytest.approx(b_crit, rel=0.4)
    # A training of the cheapest takes hardly more samples than the fewest there are, unless it is slow beyond measure.
    if overhead < 1000:
        fewest = law.s_min * (1 + b_crit)
        assert tuner.steps_of(tuner.cheapest) * tuner.cheapest <= 1.5 * fewest


def recorded(target: float) -> dict[tuple[int, float], dict[int, float]]:
    """Steps to a target by setting and seed, as the study of the digits measured them."""
    found: dict[tuple[int, float], dict[int, float]] = {}
    with open(PROJECT / "conf/study/results/batch_size.csv") as file:
        for row in csv.DictReader(file):
            size = 1257 if row["data.batch_size"] == "full" else int(row["data.batch_size"])
            by = row[f"steps_to_{target:g}_by"]
            steps = float(by) - 1 if by else math.inf
            found.setdefault((size, float(row["optimizer.lr"])), {})[int(row["seed"])] = steps
    return found


@pytest.mark.parametrize("target", [0.54, 0.3, 0.25])
@pytest.mark.parametrize("samples_of_overhead", [30, 500, 5000])
def test_on_recorded_trainings_it_is_within_15_percent_of_the_full_grid(
    target: float, samples_of_overhead: float
) -> None:
    """Each training is looked up, so that this is what tune does with real spread between rates and seeds."""
    known = recorded(target)
    rates = sorted({rate for _, rate in known})

    def nearest(rate: float) -> float:
        return min(rates, key=lambda r: abs(math.log(r / rate)))

    def train(size: int, rate: float, seed: int, cap: float) -> float | None:
        steps = known[size, nearest(rate)][seed]
        inside = rates[0] / 1.5 < rate < rates[-1] * 1.5
        return steps if inside and steps <= cap else None

    def seconds(size: int) -> float:
        return samples_of_overhead + size

    sizes = sorted({size for size, _ in known})
    best = min(mean(by_seed.values()) * seconds(size) for (size, _), by_seed in known.items())
    for first in SEEDS:
        tuner = Tuner(train, seconds, sizes, [(first + i) % 3 for i in range(3)], lambda size: 1_400.0)
        tuner.tune(32, 0.1, lambda: 86)
        size = tuner.fastest
        chosen = mean(known[size, nearest(tuner.best[size])].values()) * seconds(size)
        assert chosen <= 1.15 * best, f"from seed {first}: {size}, {tuner.best[size]}"


def test_it_ends_after_so_many_trainings() -> None:
    law = Law(50, 15, 0.8)
    tuner = Tuner(law, lambda size: 1.0, candidates(4096, 32), SEEDS, lambda size: 50_000.0, trials=7)
    tuner.tune(32, 0.8, lambda: None)
    assert sum(map(len, tuner.steps.values())) == 7
    assert tuner.fastest in tuner.best
    none = Tuner(lambda *_: None, lambda size: 1.0, [32], SEEDS, lambda size: 100.0)
    none.tune(32, 0.8, lambda: None)
    assert none.best == {}


def test_the_command(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_SECONDS", 0.01)
    monkeypatch.setattr(story, "_ROUNDS", 1)
    done = commands("tune", *QUICK, "target=0.02", "optimizer.lr=0.05", "trials=4")
    assert done.code == 0, done.err
    assert all(len(line) <= 80 for line in done.out.splitlines()), done.out
    (file,) = commands.folder.glob("runs/linear/tune_*/tune.json")
    assert [path for path in commands.folder.rglob("*") if path.is_file()] == [file]
    kept = json.loads(file.read_text())
    assert (kept["target"], kept["monitor"]) == (0.02, "val/loss")
    assert sum(len(trial["steps_by_seed"]) for trial in kept["trials"]) == 4
    # What it prints to be copied comes to the target, after as many steps.
    fastest = kept["fastest"]
    flags = [f"data.batch_size={fastest['batch_size']}", f"optimizer.lr={fastest['rate']:g}"]
    assert all(flag in done.out for flag in flags)
    steps = math.ceil(fastest["steps"])
    assert trained(commands, *flags, f"budget={steps} steps") <= 0.02
    assert trained(commands, *flags, f"budget={steps // 2} steps") > 0.02


def trained(commands: Commands, *overrides: str) -> float:
    """The validation loss at the end of a run."""
    before = set(commands.folder.glob("runs/linear/*/result.json"))
    done = commands("train", "+experiment=linear", "trainer=cpu", "num_threads=1", "test=false", *overrides)
    assert done.code == 0, done.err
    (result,) = set(commands.folder.glob("runs/linear/*/result.json")) - before
    return json.loads(result.read_text())["metrics"]["val/loss"]


class Own(L.LightningModule):
    """Has an optimizer of its own."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.net, self.lr = nn.Linear(10, 1), lr

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


OWN = ("~model", f"+model={{_target_: {__name__}.Own, lr: 0.02}}", "~optimizer", "~scheduler")


def quick_tune(*overrides: str) -> Tuned:
    typed = [*QUICK, *overrides]
    return find(configured(*typed), typed, lambda _: None, seconds=lambda size: 1.0 + size)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("target=low",), "target=low is not a value of val/loss; give a number, e.g. target=0.3"),
        (("trainer.devices=2",), "tune trains on one device; use trainer.devices=1"),
        (("optimizer.lr=null",), "the configuration has no optimizer.lr; name its key: rate_key=model.lr"),
        (("sizes=[5000]",), "sizes=5000 is more than the 1,000 training samples"),
        (("budget=1 h",), "give a budget in epochs, steps or samples"),
        (("seeds=0",), "seeds=0 is not a number of seeds from 1 up"),
        (("target=0.1", "monitor=val/acc"), "tune goes by val/acc, and what the validation logs"),
        (
            ("target=-1", "trials=1", "budget=20 steps"),
            "no training came to val/loss -1; give another target, a longer budget",
        ),
        (OWN, "Own takes it not; give its __init__ a parameter named optimizer, or name the key it takes"),
    ],
)
def test_what_it_cannot_do_is_one_line(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as error:
        quick_tune(*overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_module_written_elsewhere_by_the_keys_that_it_has() -> None:
    found = quick_tune(*OWN, "rate_key=model.lr", "target=0.02", "trials=3")
    assert found.tuner.best
    assert any("model.lr=" in line for line in choice_lines(found))


@pytest.mark.parametrize(
    ("overrides", "sign"), [((), 1), (("monitor=val/acc",), -1), (("monitor=own", "mode=max"), -1)]
)
def test_which_way_is_better(overrides: tuple[str, ...], sign: int) -> None:
    """An accuracy is to rise, though nobody has typed so."""
    assert story._trials(configured(*QUICK, *overrides), []).sign == sign


def test_many_runs_are_refused(commands: Commands) -> None:
    done = commands("tune", *QUICK, "-m", "seed=0,1")
    assert (done.code, done.out) == (2, "")
    assert "leave out -m" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_on_digits_it_is_within_15_percent_of_the_full_grid(seed: int) -> None:
    """Real trainings; what a step takes is as it was measured on a quiet machine, so that no clock decides."""
    row = compare(0.3, seed, seconds=lambda size: 0.00055 + 1.3e-6 * size, say=lambda _: None)
    assert row.ratio <= 1.15, row


def test_a_folder_of_tune_is_no_run(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "runs/linear/tune_x"
    folder.mkdir(parents=True)
    (folder / "tune.json").write_text("{}")
    assert runs_in(tmp_path / "runs/linear") == []


@pytest.mark.parametrize(("monitor", "sign"), [("val/acc", -1), ("val/loss", 1)])
def test_the_direction_is_that_of_the_metric(monitor: str, sign: int) -> None:
    """`mode` is open in the configuration: the metric tells."""
    given = ["+experiment=digits", f"monitor={monitor}"]
    assert story._trials(configured(*given), given).sign == sign
    unknown = ["+experiment=digits", "monitor=val/score"]
    with pytest.raises(InputError, match="mode=min or mode=max"):
        story._trials(configured(*unknown), unknown)


def test_a_target_is_no_better_than_what_was_reached() -> None:
    for value in (0.95294, 0.30219, 123.45, 1.0, 3.1e-5):
        for sign in (1, -1):
            assert sign * story.reached(value, sign) >= sign * value
            assert story.reached(value, sign) == pytest.approx(value, rel=0.011)


class NoRate(L.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()


def test_a_module_that_takes_no_optimizer_is_told_what_tune_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that an experiment has set what tune has."""
    config = configured("+experiment=linear")
    own = config.optimizer.lr
    changed = lambda group, written: "optimizer.lr" if written["optimizer"]["lr"] != own else None  # noqa: E731
    monkeypatch.setattr("metronome.app.config.foreign.chosen_by_files", changed)
    config.model = {"_target_": f"{__name__}.NoRate", "lr": 0.1}
    with pytest.raises(InputError, match=r"tune sets optimizer.lr, and .*NoRate takes it not"):
        story._trials(config, ["+experiment=linear"])
