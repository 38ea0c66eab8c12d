"""The presets for a GPU: what they set, composed as a run would; whether it is fast is not for a test to say."""

from typing import Any

import pytest
from commands import PROJECT, Commands
from hydra import compose, initialize_config_dir

from metronome.app.benchmark.gpu import steps
from metronome.training.speed import Speed

FOR_SPEED = ("precision", "compile", "channels_last", "allow_tf32", "deterministic", "benchmark")


def flags(trainer: str) -> dict[str, Any]:
    with initialize_config_dir(str(PROJECT / "conf"), version_base=None):
        return dict(compose("train", ["+experiment=digits", f"trainer={trainer}", "run_dir=here"]).trainer)


@pytest.mark.parametrize(
    ("trainer", "values"),
    [
        ("cpu", ("32-true", False, False, False, None, None)),
        ("gpu", ("32-true", False, False, False, "warn", None)),
        ("ddp", ("32-true", False, False, False, "warn", None)),
        ("gpu_fast", ("bf16-mixed", True, True, True, False, True)),
    ],
)
def test_what_they_set(trainer: str, values: tuple[Any, ...]) -> None:
    found = flags(trainer)
    assert tuple(found[name] for name in FOR_SPEED) == values
    assert found["accelerator"] == ("cpu" if trainer == "cpu" else "gpu")
    assert Speed(**{name: found[name] for name in ("compile", "channels_last", "allow_tf32")})


def test_only_speed_differs() -> None:
    plain, fast = flags("gpu"), flags("gpu_fast")
    different = {name for name in plain | fast if plain.get(name) != fast.get(name)}
    assert different == set(FOR_SPEED)


def test_the_benchmark_measures_this_preset() -> None:
    rig, fast = steps.Rig(), flags("gpu_fast")
    assert {name: fast[name] for name in steps.FLAGS} == steps.FLAGS
    assert (fast["precision"], fast["compile"], rig.backend) == (rig.precision, True, "inductor")


@pytest.mark.slow
def test_typed_one_by_one_on_a_cpu(commands: Commands) -> None:
    """The whole command; `eager` compiles without a compiler."""
    names = (
        "trainer=cpu",
        "trainer.compile=eager",
        "trainer.channels_last=true",
        "budget=3steps",
    )
    done = commands("train", "+experiment=digits", *names, "trainer.allow_tf32=true", "data.on_device=true")
    assert done.code == 0, done.err
    refused = commands("train", "+experiment=digits", "trainer=cpu", "trainer.compile=gcc", "budget=3steps")
    assert refused.code != 0
    assert "trainer.compile=gcc is no backend of torch.compile" in refused.err
