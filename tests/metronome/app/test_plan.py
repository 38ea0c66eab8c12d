"""A plan trains nothing and leaves nothing."""

import json

import pytest
from commands import Commands


def test_json_only(commands: Commands) -> None:
    done = commands("plan", "+experiment=digits", "format=json")
    plan = json.loads(done.out)
    assert done.err == ""
    assert (plan["num_samples"], plan["steps_per_epoch"], plan["total_steps"], plan["epochs"]) == (1257, 20, 300, 15)
    assert [(row["epochs"], row["steps"]) for row in plan["per_epoch"]] == [([0, 14], 20)]
    assert list(commands.folder.iterdir()) == []


def test_text(commands: Commands) -> None:
    overrides = ("data.batch_size=100", "trainer.accumulate_grad_batches=3", "data.drop_last=true", "budget=30 steps")
    done = commands("plan", "+experiment=digits", *overrides)
    for words in (
        "100 = 1 device x 3 micro-batches of 33 or 34",
        "1,257 / 100 = 12 steps",
        "57 samples left out",
        "30 steps",
    ):
        assert words in done.out
    assert list(commands.folder.iterdir()) == []


@pytest.mark.parametrize("trainer", ["ddp_cpu", "cpu"])
def test_it_is_the_plan_of_the_run(trainer: str, commands: Commands) -> None:
    job = ("+experiment=linear", f"trainer={trainer}", "budget=37 steps", "data.batch_size=33", "logger=none")
    plan = json.loads(commands("plan", *job, "format=json").out)
    assert plan["devices"] == (2 if trainer == "ddp_cpu" else 1)
    if trainer == "cpu":
        assert commands("train", *job).result["plan"] == plan


def test_a_plan_of_a_study(commands: Commands) -> None:
    done = commands("plan", "+study=batch_size")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: a plan is of one run, and a study has many; give the experiment of one, +experiment=...\n"
    )
    assert list(commands.folder.iterdir()) == []


def test_another_growth_for_the_experiment_that_grows(commands: Commands) -> None:
    done = commands("plan", "+experiment=growth", "data.batch_growth={factor: 2, every: 5 epochs, max: 64}")
    assert "1,257 / 64 = 20 steps" in done.out, done.err
    wrong = commands("plan", "+experiment=growth", "data.batch_growth={factor: 2, evry: 5 epochs}")
    assert wrong.err.startswith("error: no key 'evry' in data.batch_growth; did you mean data.batch_growth.every; ")
