"""What a benchmark is asked for: which cases, how often, by which clock. Needs no torch, so that --help is fast."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metronome.units import InputError, check_number

# In the order in which they are measured and shown.
CASES = {
    "linear": "10 numbers to 1, batch 100, SGD: next to nothing to compute",
    "mlp": "784-128-10, batch 64, SGD",
    "uint8": "55,000 images of 28x28 bytes, 784-64-128-64-10 with BatchNorm, batch 128, Adam",
    "many": "800 small parameter tensors, batch 64, SGD",
    "large": "25 million weights in 4 tensors, batch 64, SGD",
    "images": "ResNet-18 on images of 3x32x32, batch 16, SGD",
    "validation": "epochs of 1 step and 10 batches of validation, 10 numbers to 1, batch 100",
    "epoch": "epochs of 1 step, 10 numbers to 1, batch 100",
    "samples": "read sample by sample: 3x32x32, flipped and cropped, batch 64",
    "order": "the first batch of an epoch, shuffled, by the number of samples",
    "startup": "from the command to the end of the first step",
    "processes": "linear and mlp on several processes (gloo)",
    "gpu": "ResNet-18, ResNet-50 and a small GPT-2 on one GPU, beside a loop tuned by hand",
}
DEFAULT = ("linear", "mlp", "uint8")
CLOCKS = ("wall", "cpu")


@dataclass(frozen=True)
class Asked:
    """What to measure.

    Attributes:
        cases: names in `CASES`, in any order.
        steps: to measure each time, after a warm-up; slower cases take a part of them.
        rounds: times that each way is measured; in each round all take their turn.
        processes: that train together in the case of that name; each number is a case of its own.
        clock: `wall`, or `cpu`, the seconds that this process and its children have computed, for a busy machine.
        json: where to write all numbers.
        page: whether to write the page and its figure.
        project: the folder of the checkout, with the page in it and the command whose start is measured.
        command: that was typed, for the page.

    Raises:
        InputError: for what is not allowed, in one line.
    """

    cases: Sequence[str] = DEFAULT
    steps: int = 250
    rounds: int = 7
    processes: Sequence[int] = (2,)
    clock: str = "wall"
    json: Path | None = None
    page: bool = False
    project: Path = Path()
    command: str = ""

    def __post_init__(self) -> None:
        check_number("--steps", self.steps, "steps")
        check_number("--rounds", self.rounds, "rounds")
        for count in self.processes:
            check_number("--processes", count, "processes", least=2)
        if unknown := [name for name in self.cases if name not in CASES]:
            raise InputError(f"--cases={','.join(unknown)} is not known; there are: {', '.join(CASES)}, or all")
        if self.clock not in CLOCKS:
            raise InputError(f"--clock={self.clock} is not known; there are: {', '.join(CLOCKS)}")
        if self.clock == "cpu" and sys.platform != "linux":
            raise InputError("--clock=cpu needs Linux, which says what other processes have computed; use wall")
        # Now, not when all is measured.
        if self.json is not None and not self.json.resolve().parent.is_dir():
            raise InputError(f"--json={self.json}: there is no folder {self.json.parent}")
        if self.page and not self.page_file.is_file():
            raise InputError(f"--page writes into {self.page_file}, which is not there: use it in a checkout")
        if "startup" in self.cases and not self.train.is_file():
            raise InputError(f"--cases=startup starts {self.train}, which is not there: use it in a checkout")

    @property
    def page_file(self) -> Path:
        return self.project / "src/metronome/app/benchmark/README.md"

    @property
    def figure_file(self) -> Path:
        return self.project / ".github/assets/benchmark.png"

    @property
    def train(self) -> Path:
        return self.project / "scripts/train.py"

    @property
    def in_order(self) -> list[str]:
        """The cases, each once."""
        return [name for name in CASES if name in self.cases]


def processes_of(text: str) -> tuple[int, ...]:
    """The numbers in `2,4,8`, each once. Raises InputError for what is none."""
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        raise InputError(f"--processes={text} is not a number of processes, or several: --processes=2,4,8") from None


def cases_of(text: str) -> tuple[str, ...]:
    """The names in `linear,mlp`; of `all`, all there are."""
    return tuple(CASES) if text == "all" else tuple(name.strip() for name in text.split(","))
