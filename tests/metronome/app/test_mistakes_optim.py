"""A user's mistake about optimizers and schedulers: one clear line, a non-zero exit, nothing half written."""

from typing import Any

import pytest
from commands import Commands

LINEAR = ("+experiment=linear", "data.num_samples=64", "data.batch_size=8", "trainer.max_epochs=2", "logger=none",
          "num_threads=1")  # fmt: skip

DIGITS = ("data=digits", "model=mlp", "scheduler=constant", "logger=none", "num_threads=1")

ROWS = [
    (["scheduler=step", "scheduler.every=0epochs"], "scheduler.every=0epochs is no time at all; give for example"),
    (["scheduler=step", "scheduler.factor=-0.5"], "scheduler.factor=-0.5 is not a number above 0"),
    (["scheduler=multistep", "scheduler.at=[75%,50%]"], "scheduler.at=[75%,50%] does not rise"),
    (["scheduler=wsd", "scheduler.warmup=50%", "scheduler.decay=60%"], "are 8 + 10 steps, and the run has 16"),
    (["scheduler=plateau", "scheduler.patience=5"], "`5` has no unit; add one, e.g. `5 steps` or `5 epochs`"),
    (["scheduler=plateau", "scheduler.monitor=val/nope"], "add scheduler.mode=min or scheduler.mode=max"),
    (
        ["scheduler=plateau", "scheduler.monitor=val/nope", "scheduler.mode=min"],
        "scheduler.monitor=val/nope is not logged; there is: ",
    ),
    (
        ["scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "~scheduler.warmup"],
        "use scheduler=plateau, where it is a duration",
    ),
    (["optimizer=muon", "optimizer.lr=-1"], "optimizer Muon: Learning rate should be >= 0 but is: -1"),
    (["optimizer=rprop", "optimizer.step_sizes=[a,b]"], "optimizer.step_sizes=['a', 'b'] is not a list of numbers"),
    (["optimizer=rprop", "optimizer.etas=[2,1]"], "optimizer Rprop: Invalid eta values: 2, 1"),
    (["optimizer=lbfgs", "optimizer.line_search_fn=wolfe"], "is not known; use strong_wolfe or null"),
]
MORE = [
    (["scheduler=nope"], "there are: constant, cosine, multistep, onecycle, plateau, step, wsd"),
    (["scheduler=step", "scheduler.every=-1 epochs"], "`-1 epochs` is negative"),
    (["scheduler=step", "scheduler.every=5"], "`5` has no unit; add one, e.g. `5 steps` or `5 epochs`"),
    (["scheduler=step", "scheduler.every=null"], "`None` is not a duration"),
    (["scheduler=step", "scheduler.factor=half"], "scheduler.factor='half' is not a number above 0"),
    (["scheduler=step", "scheduler.gamma=0.5"], "no key 'gamma' in scheduler; scheduler has: "),
    (["scheduler=step", "scheduler.every=1 step", "scheduler.factor=1e200"], "1e+200 makes the rate infinite after"),
    (["scheduler=multistep", "scheduler.at=[]"], "scheduler.at=[] has no time"),
    (["scheduler=multistep", "scheduler.at=50%"], "scheduler.at='50%' is not a list of durations"),
    (["scheduler=multistep", "scheduler.at=[30,60]"], "`30` has no unit"),
    (["scheduler=constant", "scheduler.warmup=2 epochs"], "scheduler.warmup=2 epochs is 16 steps, and the run has 16"),
    (["scheduler=constant", "scheduler.warmup=1 min"], "`1 min` is not known in steps"),
    (["scheduler=wsd", "scheduler.shape=flat"], "scheduler.shape=flat is not known; there are: linear, sqrt, cosine"),
    (["scheduler=wsd", "scheduler.decay=120%"], "`120%` is more than the whole"),
    (["scheduler=onecycle", "scheduler.div_factor=0"], "scheduler.div_factor=0 is not a number above 0"),
    (["scheduler=onecycle", "scheduler.warmup=100%"], "make it shorter"),
    (["scheduler=plateau", "scheduler.factor=1.5"], "scheduler.factor=1.5 is not a factor between 0 and 1"),
    (["scheduler=plateau", "scheduler.mode=up"], "scheduler.mode=up is neither min nor max"),
    (["scheduler=plateau", "trainer.limit_val_batches=0"], "looks at a metric at each validation, and there is none"),
    (["optimizer=muon", "optimizer.lr=fast"], "optimizer.lr='fast' is not a finite number, such as 0.001"),
    (["optimizer=muon", "optimizer.adjust_lr_fn=mine"], "optimizer Muon: Adjust learning rate function mine is not"),
    (["optimizer=muon", "optimizer.betas=[0.9]"], "optimizer.betas=[0.9] is not a pair of numbers"),
    (["optimizer=muon", "optimizer.ns_steps=100"], "optimizer.ns_steps=100 is more than 99"),
    (["optimizer=rprop", "optimizer.etas=0.5"], "optimizer.etas=0.5 is not a pair of numbers"),
    (["optimizer=rprop", "optimizer.etas=[0.5]"], "optimizer.etas=[0.5] is not a pair of numbers"),
    (["optimizer=adam", "optimizer.betas=[0.9]"], "optimizer.betas=[0.9] is not a pair of numbers"),
    (["optimizer=adam", "optimizer.lr=abc"], "optimizer.lr='abc' is not a finite number, such as 0.001"),
    (["optimizer=lbfgs", "optimizer.tolerance_grad=x"], "optimizer.tolerance_grad='x' is not a finite number"),
    (["optimizer=muon", "optimizer.momentum=2"], "optimizer.momentum=2 is not a number from 0 to below 1"),
    (["optimizer=muon", "optimizer.nesterov=maybe"], "optimizer.nesterov='maybe' is neither true nor false"),
    (["optimizer=muon", "optimizer.betas=[a,b]"], "optimizer.betas=['a', 'b'] is not a pair of numbers"),
    (["optimizer=lbfgs", "optimizer.max_iter=0"], "optimizer.max_iter=0 is not a number of iterations from 1 up"),
    (["optimizer=nesterov", "optimizer.momentum=0"], "optimizer SGD: Nesterov momentum requires a momentum"),
]


def named(rows: list[tuple], *marks: Any) -> list[Any]:
    return [pytest.param(*row, id=row[0][-1][:50], marks=marks) for row in rows]


@pytest.mark.parametrize(("arguments", "words"), named(ROWS) + named(MORE, pytest.mark.slow))
def test_one_line(arguments: list[str], words: str, commands: Commands) -> None:
    done = commands("train", *LINEAR, *arguments)
    assert done.code == 2, done.err + done.out
    assert "Traceback" not in done.out + done.err
    lines = [line for line in done.err.strip().splitlines() if "data.batch_size=full" not in line]  # that is a warning
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert not [path for path in done.folder.rglob("*") if path.name.endswith(".part")]
    for result in done.results:
        assert result["status"] == "failed"
        assert words in result["error"]


# ---- what is no mistake -----------------------------------------------------------------------------------------


def warned(text: str) -> int:
    return text.count("Rprop takes only the sign of each gradient")


def test_rprop_in_mini_batches_goes_on(commands: Commands) -> None:
    done = commands("train", *LINEAR, "optimizer=rprop", "optimizer.lr=0.01")
    assert done.code == 0, done.err
    assert warned(done.out + done.err) == 1
    assert done.result["progress"]["steps"] == 16


def test_rprop_with_the_full_batch_is_silent(commands: Commands) -> None:
    done = commands("train", *LINEAR, "optimizer=rprop", "optimizer.lr=0.01", "data.batch_size=full")
    assert done.code == 0, done.err
    assert warned(done.out + done.err) == 0


@pytest.mark.slow
def test_a_sweep_says_it_of_the_jobs_that_it_is_true_of(commands: Commands) -> None:
    done = commands("train", *LINEAR, "-m", "optimizer=momentum,rprop", "data.batch_size=8,full")
    assert done.code == 0, done.err
    assert warned(done.out + done.err) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch_size"),
    [(name, 64) for name in ("sgd", "momentum", "nesterov", "adam", "adamw", "muon")]
    + [("rprop", "full"), ("lbfgs", "full")],
)
def test_every_optimizer_as_it_is(name: str, batch_size: int | str, commands: Commands) -> None:
    """Each file with its own rate: digits are learned."""
    done = commands("train", *DIGITS, f"optimizer={name}", f"data.batch_size={batch_size}", "trainer.max_epochs=5")
    assert done.code == 0, done.err
    assert done.result["metrics"]["test/acc"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["constant", "step", "multistep", "cosine", "wsd", "onecycle", "plateau"])
def test_every_scheduler_as_it_is(name: str, commands: Commands) -> None:
    for budget in ("trainer.max_epochs=2", "trainer.fast_dev_run=true"):
        done = commands("train", *LINEAR, f"scheduler={name}", budget)
        assert done.code == 0, done.err
