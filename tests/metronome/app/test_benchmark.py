"""The benchmark: its parts, and that what it compares is the same training. How long anything takes no test says."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PROJECT, Commands, wait_for

from metronome.app.benchmark import apart, steps
from metronome.app.benchmark.asked import CASES, DEFAULT, Asked, cases_of, processes_of
from metronome.app.benchmark.gpu import networks
from metronome.app.benchmark.gpu import steps as gpu
from metronome.app.benchmark.measuring import Case, Measured, Row, Stopwatch, Way, clock_of, measure
from metronome.app.benchmark.page import write_page
from metronome.app.benchmark.table import as_markdown, as_text, number
from metronome.app.benchmark.tasks import TASKS, Augmented, Task, images_of_bytes
from metronome.app.benchmark.ways import bare
from metronome.units import InputError

FEW = ("--steps", "4", "--rounds", "2")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark takes one, and this process has other tests to run."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# ---- the whole command -------------------------------------------------------------------------------------------


def test_steps(commands: Commands) -> None:
    done = commands("benchmark", "--cases", "linear", *FEW, "--json", "out.json")
    assert done.code == 0, done.err
    assert all(len(line) <= 100 for line in done.out.splitlines()[6:])
    content = json.loads((done.folder / "out.json").read_text())
    assert {"hardware", "versions", "date", "time", "cases"} <= set(content)
    (case,) = content["cases"].values()
    ways = case["ways"]
    assert list(ways) == [
        "bare loop",
        "textbook loop",
        "Lightning",
        "Metronome",
        "Metronome, a value logged",
        "bare loop, in 8",
        "Metronome, in 8",
    ]
    for name, way in ways.items():
        assert len(way["values"]) == 2
        assert way["lowest"] <= way["median"] <= way["highest"]
        row = next(line for line in done.out.splitlines() if line.startswith(f"{name}  "))
        assert f" {number(way['median'])} " in row
    ours, bare = ways["Metronome"]["values"], ways["bare loop"]["values"]
    assert ways["Metronome"]["ratios"]["x bare"] == pytest.approx((ours[0] / bare[0] + ours[1] / bare[1]) / 2)
    assert ways["Metronome"]["added"] == pytest.approx((ours[0] - bare[0] + ours[1] - bare[1]) / 2)
    assert "all ways end with the same weights, bit for bit; so do those that cut each batch" in case["notes"][0]
    cut, bare_cut = ways["Metronome, in 8"]["values"], ways["bare loop, in 8"]["values"]
    further = sum((cut[i] - ours[i] - bare_cut[i] + bare[i]) / 7 for i in (0, 1)) / 2
    assert f"a further micro-batch costs {further:,.0f} us" in case["notes"][1]


@pytest.mark.parametrize(
    ("name", "ways"), [("epoch", 3), ("validation", 3), pytest.param("samples", 12, marks=pytest.mark.slow)]
)
def test_other_cases(name: str, ways: int, commands: Commands) -> None:
    done = commands("benchmark", "--cases", name, "--steps=4", "--rounds=1", "--clock", "cpu", "--json", "out.json")
    assert done.code == 0, done.err
    (case,) = json.loads((done.folder / "out.json").read_text())["cases"].values()
    assert len(case["ways"]) == ways
    assert all(len(way["values"]) == 1 and min(way["values"]) > 0 for way in case["ways"].values())


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_cases_in_other_processes(clock: str, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_SIZES", (10**5, 10**6))
    words = (
        "--cases",
        "startup,order",
        "--processes=2,3",
        "--steps=4",
        "--rounds=1",
        "--clock",
        clock,
        "--json",
        "out.json",
    )
    done = commands("benchmark", *words)
    assert done.code == 0, done.err
    cases: dict[str, Any] = json.loads((done.folder / "out.json").read_text())["cases"]
    on_processes = [f"{task} on {count} processes" for task in ("linear", "mlp") for count in (2, 3)]
    assert list(cases) == ["order", "startup", *on_processes]
    for case in cases.values():
        assert all(len(way["values"]) == 1 for way in case["ways"].values())
    assert len(cases["order"]["ways"]) == 4
    assert all(way["remark"].endswith(" MB") for way in cases["order"]["ways"].values())
    # Of a plain loop it is known: the gradients meet once a step, also of a batch that is cut.
    for name in on_processes:
        ways = cases[name]["ways"]
        assert ways["plain DDP"]["remark"] == ways["plain DDP, in 4"]["remark"] == "1 (0)"
        assert all(re.fullmatch(r"[\d.]+ \([\d.]+\)", way["remark"]) for way in ways.values())


def test_what_is_asked_for(tmp_path: Path) -> None:
    assert cases_of("all") == tuple(CASES)
    assert Asked(cases_of("uint8, linear,linear")).in_order == ["linear", "uint8"]
    assert set(DEFAULT) <= set(TASKS) <= set(CASES)
    for wrong, words in {
        "cases": (("nope",), "--cases=nope is not known; there are: linear, mlp"),
        "clock": ("sun", "--clock=sun is not known; there are: wall, cpu"),
        "rounds": (0, "--rounds=0 is not a number of rounds from 1 up"),
        "processes": ((2, 1), "--processes=1 is not a number of processes from 2 up"),
        "json": (tmp_path / "no/out.json", "there is no folder"),
        "page": (True, "which is not there"),
    }.items():
        value, text = words
        with pytest.raises(InputError, match=re.escape(text)):
            Asked(**{"project": tmp_path, wrong: value})  # pyright: ignore
    assert processes_of("4,2,4") == (4, 2)
    for text in ("two", "2,", ""):
        with pytest.raises(InputError, match=f"--processes={text} is not a number of processes, or several"):
            processes_of(text)
    with pytest.raises(InputError, match="startup"):
        Asked(cases=("startup",), project=tmp_path)


# ---- its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.is_cut])
def test_all_ways_make_the_same_training(name: str) -> None:
    uncut, cut = steps.last_weights(TASKS[name])
    assert len(uncut) == 5
    assert len(cut) == 2
    assert len(set(uncut.values())) == 1
    assert len(set(cut.values())) == 1


def test_another_training_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(task: Task, stopwatch: Stopwatch, *, shuffle: bool = True) -> torch.nn.Module:
        return bare(task, Stopwatch(float, stopwatch.steps + 1, 1), shuffle=shuffle)

    monkeypatch.setitem(steps._WHOLE, steps.METRONOME, other)
    assert "NOT ALL" in steps._checked(TASKS["linear"])


def test_the_large_ones_are_as_large_as_they_say() -> None:
    tensors = [parameter.numel() for parameter in TASKS["many"].network().parameters()]
    assert len(tensors) == 800
    assert max(tensors) <= 64
    assert [parameter.numel() for parameter in TASKS["large"].network().parameters()] == [6_250_000] * 4
    network = TASKS["images"].network()
    # 11,173,962 weights: the known number of ResNet-18 with this stem and 10 classes.
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_samples_are_augmented() -> None:
    dataset = Augmented(2)
    seen = {tuple(dataset[0][0].flatten().tolist()) for _ in range(50)}
    assert len(seen) > 25
    assert dataset[0][0].shape == (3, 32, 32)


def test_stopwatch() -> None:
    """Steps 3 and 4 of 4 are measured, from the end of step 2 on."""
    ticks = iter([10.0, 16.0])
    stopwatch = Stopwatch(lambda: next(ticks), steps=2, warmup=2)
    assert [stopwatch.step_done() for _ in range(4)] == [False, False, False, True]
    assert stopwatch.seconds == 6
    assert stopwatch.micros == 3e6


def test_the_clock_of_the_processor_counts_children() -> None:
    clock = clock_of("cpu")
    child = torch.multiprocessing.get_context("spawn").Process(target=sum, args=(range(10**15),))
    child.start()
    try:
        before, own = clock(), time.process_time()
        wait_for(lambda: clock() - before > time.process_time() - own + 0.1)
    finally:
        child.kill()
        child.join()


def test_medians_of_rounds() -> None:
    numbers = {"a": iter([1.0, 2.0, 4.0]), "b": iter([3.0, 4.0, 4.0])}
    ways = [Way(name, lambda name=name: next(numbers[name]), ("a",)) for name in numbers]
    never = Way("c", lambda: None, ("a",), lambda: "cannot be had")
    case = Case("x", "of letters", "us", [*ways, never], ("a",), True, "why", lambda: "first", lambda _: ["last"])
    measured = measure(case, 3)
    a, b, c = measured.rows
    assert (a.median, a.added, a.ratios) == (2, None, [1])
    assert (b.median, b.added, b.ratios) == (4, 2, [2])  # of 2, 2, 0 and 3, 2, 1
    assert (c.values, c.added, c.ratios, c.remark) == ([], None, [None], "cannot be had")
    assert measured.lines == ["first", "last"]


def example() -> Measured:
    case = Case("linear", "of letters", "us a step", [], ("bare",), shows_added=True)
    rows = [Row("bare loop", [100.0, 110.0, 120.0], None, [1.0]), Row("Metronome", [1234.0], 0.5, [12.3])]
    return Measured(case, rows, ["a note"])


def test_table() -> None:
    assert as_text(example()).splitlines() == [
        "linear: of letters",
        "------------------",
        "                               us a step  lowest - highest  added  x bare",
        "bare loop                            110         100 - 120           1.00",
        "Metronome                          1,234     1,234 - 1,234   0.50   12.30",
        "a note",
    ]
    assert as_markdown(example()).splitlines()[2:6] == [
        "|  | us a step | lowest - highest | added | x bare |",
        "|---|---:|---:|---:|---:|",
        "| bare loop | 110 | 100 - 120 |  | 1.00 |",
        "| Metronome | 1,234 | 1,234 - 1,234 | 0.50 | 12.30 |",
    ]


def test_page(tmp_path: Path) -> None:
    asked = Asked(project=tmp_path, command="python scripts/benchmark.py --page")
    for file in (asked.page_file, asked.figure_file):
        file.parent.mkdir(parents=True)
    text = (PROJECT / asked.page_file.relative_to(tmp_path)).read_text()
    asked.page_file.write_text(text)
    for _ in range(2):  # what is there is replaced
        write_page(asked, {"date": "2026-01-01"}, [example()])
    page = asked.page_file.read_text()
    assert page.count("python scripts/benchmark.py --page\n") == 1
    assert "- date: 2026-01-01" in page
    assert as_markdown(example()) in page
    assert page.split("<!-- measured")[0] == text.split("<!-- measured")[0]
    assert page.split("measured: end -->")[1] == text.split("measured: end -->")[1]
    (link,) = re.findall(r"!\[Microseconds a step of linear: .*\]\((\S+)\)", page)
    assert (asked.page_file.parent / link).resolve() == asked.figure_file.resolve()
    assert asked.figure_file.read_bytes().startswith(b"\x89PNG")

    asked.page_file.write_text("nothing")
    with pytest.raises(InputError, match="no place"):
        write_page(asked, {}, [example()])


# ---- on a GPU ----------------------------------------------------------------------------------------------------

SMALL_RIG = gpu.Rig("cpu", "eager", "32-true", lambda: None)
SMALL = {
    "resnet18": replace(gpu.TASKS["resnet18"], batch_size=2, data=partial(images_of_bytes, 4, 3, 16, 16)),
    "resnet50": replace(gpu.TASKS["resnet50"], batch_size=2, data=partial(images_of_bytes, 4, 3, 32, 32)),
    "gpt2": replace(
        gpu.TASKS["gpt2"], data=partial(networks.tokens, 32, 8, 50), network=partial(networks.GPT2, 64, 8, 2, 2, 16)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("resnet18", marks=pytest.mark.slow), "gpt2"])
def test_both_ways_on_a_gpu_make_the_same_training(name: str) -> None:
    """A small one, on a CPU: the same to rounding."""
    assert gpu.apart(SMALL[name], SMALL_RIG)[0] < 1e-3


@pytest.mark.slow
def test_another_training_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SMALL["gpt2"], optimizer=partial(torch.optim.SGD, lr=1.0))
    training = gpu.ours
    monkeypatch.setattr(gpu, "ours", lambda task, *rest, **options: training(other, *rest, **options))
    assert gpu.apart(SMALL["gpt2"], SMALL_RIG)[0] > 0.1


@pytest.mark.slow
def test_a_case_on_a_gpu() -> None:
    case = gpu.gpu_case("gpt2", Asked(steps=10), SMALL_RIG, SMALL["gpt2"])
    measured = measure(case, 1)
    assert [row.way for row in measured.rows] == ["loop tuned by hand", "Metronome, as gpu_fast"]
    assert all(len(row.values) == 1 and row.values[0] > 0 for row in measured.rows)
    assert measured.lines[0].startswith("after 5 steps in the same order the weights are 0.0% of their way apart")
    assert as_text(measured).startswith("gpt2 on a GPU: ")


def test_networks_of_a_gpu() -> None:
    """The known numbers of weights: ResNet-50, and GPT-2 with 47 words more."""
    network = gpu.TASKS["resnet50"].network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in networks.GPT2().parameters()) == 124_439_808 + 47 * 768
        assert networks.GPT2()(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 50_304)
    small = networks.GPT2(64, 8, 2, 2, 16)
    text = torch.arange(8)[None]
    changed = small(torch.cat([text[:, :5], text[:, 5:] + 9], 1)) - small(text)
    assert changed[:, :5].abs().max() < 1e-6 < changed[:, 5:].abs().max()  # a word sees those before it alone
    x, y = networks.tokens(3, 8, 50)
    assert torch.equal(x[:, 1:], y[:, :-1])
    for task in gpu.TASKS.values():
        assert set(gpu.TITLES) == set(gpu.TASKS)
        assert task.data.args[0] % task.batch_size == 0  # pyright: ignore


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(commands: Commands) -> None:
    done = commands("benchmark", "--cases", "gpu", *FEW, "--json", "out.json")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "gpu: left out, since PyTorch finds no CUDA device here"
    assert json.loads((done.folder / "out.json").read_text())["cases"] == {}
