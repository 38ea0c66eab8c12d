"""A compiled network: the same names, the same results, a checkpoint for either kind. No compiler is needed."""

from functools import partial
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch

from metronome.models import Regressor
from metronome.units import InputError


def regressor(**options: Any) -> Regressor:
    return Regressor(network=jobs.network(), optimizer=partial(torch.optim.SGD, lr=0.1), **options)


def trained(**flags: Any) -> tuple[Regressor, dict[str, float], Any]:
    model, data = regressor(), jobs.Data(batch_size=32)
    _, trainer = jobs.fit(model=model, data=data, max_epochs=2, accumulate_grad_batches=2, **flags)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    for run in (trainer.validate, trainer.test):
        metrics.update(run(model, datamodule=data, verbose=False)[0])
    return model, metrics, trainer


def test_a_compiled_network(tmp_path: Path) -> None:
    plain, expected, _ = trained()
    compiled, metrics, trainer = trained(compile="eager")
    assert plain.network._compiled_call_impl is None
    assert compiled.network._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert metrics == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(jobs.weights(compiled), jobs.weights(plain), rtol=1e-12, atol=1e-15)
    assert set(metrics) == {"train/loss", "train/loss_epoch", "val/loss", "val/mae", "test/loss", "test/mae"}

    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    uncompiled = regressor()
    data = jobs.Data(batch_size=32)
    (found,) = jobs.trainer().test(
        uncompiled, datamodule=data, ckpt_path=str(tmp_path / "compiled.ckpt"), verbose=False, weights_only=True
    )
    assert torch.equal(jobs.weights(uncompiled), jobs.weights(compiled))
    assert found == pytest.approx({name: metrics[name] for name in ("test/loss", "test/mae")}, rel=1e-12)


@pytest.mark.parametrize(
    ("compile", "backends"), [(False, []), (True, ["inductor"]), ("eager", ["eager"]), ("aot_eager", ["aot_eager"])]
)
def test_it_is_compiled_once_with_the_backend_named(compile: Any, backends: list[str], monkeypatch: Any) -> None:
    asked: list[str] = []

    def compiled(call: Any, *, backend: str) -> Any:
        asked.append(backend)
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    trained(compile=compile)  # a fit, a validation and a test
    assert asked == backends


def test_the_trainer_compiles() -> None:
    with pytest.raises(InputError, match=r"^model\.compile=eager is no more; use trainer\.compile=eager"):
        regressor(compile="eager")
    regressor(compile=False)  # as the configuration in an older checkpoint has it
