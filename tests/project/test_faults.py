"""The runs that show whether advice is right: that they can be made, and what is counted of them."""

import pytest
from commands import PROJECT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from project.faults.faults import FAULTS, Fault, until


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_they_compose(fault: Fault) -> None:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("train", ["+experiment=minibatch", *fault.command])
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    assert len(data.load().train[0] if isinstance(data.load().train, tuple) else data.load().train) in (1_257, 150)


def test_steps_to_the_same_loss() -> None:
    def run(val: list[float]) -> dict:
        return {"metrics": {"val/loss": val[-1]}, "watched": {"history": {"step": [10, 20, 30], "val": val}}}

    faulty = run([3.0, 2.0, 1.0])
    assert until("step")(faulty, faulty) == 30
    assert until("step")(run([1.5, 0.9, 0.8]), faulty) == 20
    assert until("step")(run([3.0, 2.0, 1.1]), faulty) == float("inf")
