"""A case run with stock Lightning and with ours, and what comes of it, in a few words that nobody has typed.

`same bits`             what is left is equal, bit for bit
`same bits, same draws` so it is once stock Lightning draws its random numbers from the seeds that are ours
`same to 1e-12`         cut in three, it is what stock Lightning makes of the whole batch, to rounding
`better than stock`     stock Lightning's result is wrong, or an error; ours is what a plain way of doing it gives
`refused`, `differs`    with the line that was raised or logged
`not exact`             where it is cut, with the row of the engine's README that says so
"""

import logging
import os
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from stock import Case
from torch import Tensor

from metronome.training import Trainer
from metronome.training.batches.seeds import StepSeeds, remember_generators, seed_of_everything
from metronome.units import InputError, RunFailed

ENGINE = Path(__file__).parents[2] / "src/metronome/training/README.md"


class Failure(AssertionError):
    """A case that differs, and nothing was said about it."""


@dataclass
class Outcome:
    """What a case left, or the error that it ended with; and the lines that were logged meanwhile."""

    left: Any = None
    error: Exception | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def refusal(self) -> str:
        if isinstance(self.error, InputError | RunFailed):
            return line_of(self.error)
        # What a process of several has raised comes with its traceback.
        found = re.search(r"^metronome\.\S+\.(InputError|RunFailed): (.+)$", str(self.error), re.MULTILINE)
        return shortened(found.group(2)) if found else ""


# ---- verdicts ----------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """Of one case: uncut, and cut in three; and what is wrong about it, if anything."""

    case: Case
    whole: str
    cut: str
    failures: list[str]


def judge(case: Case) -> Verdict:
    """Run a case in all the ways that it takes."""
    failures: list[str] = []

    def said(which: str, find: Callable[[], str]) -> str:
        try:
            return find()
        except Failure as failure:
            failures.append(f"{case.kind}, {case.name}, {which}: {failure}")
            return f"**{failure}**"

    stock, ours = outcome(case.run, L.Trainer), outcome(case.run, Trainer)
    seeded = None
    if case.right is None and stock.error is None and ours.error is None and difference(stock.left, ours.left):
        seeded = outcome(case.run, DrawsAsOurs)
    whole = said("whole", lambda: _whole(case, stock, ours, seeded))
    if not case.cut or (ours.refusal and whole.startswith("refused")):
        return Verdict(case, whole, "", failures)
    expected = ours if whole.startswith("better") else stock if seeded is None else seeded
    finer = outcome(case.run, Trainer, accumulate_grad_batches=3)
    return Verdict(case, whole, said("cut in three", lambda: _cut(case, expected, finer)), failures)


def _whole(case: Case, stock: Outcome, ours: Outcome, seeded: Outcome | None) -> str:
    if ours.refusal:
        return f"refused: {ours.refusal}"
    if ours.error is not None:
        if type(stock.error) is type(ours.error) and line_of(stock.error) == line_of(ours.error):
            return f"same error: {line_of(ours.error)}"
        raise Failure(f"{type(ours.error).__name__}: {line_of(ours.error)}") from ours.error
    if case.right is not None:
        right = outcome(case.right, Trainer)
        if right.error is not None or difference(right.left, ours.left, 1e-12):
            raise Failure(f"is not what is right: {right.error or difference(right.left, ours.left, 1e-12)}")
        plain = outcome(case.right, L.Trainer)
        if stock.error is None and not difference(plain.left, stock.left, 1e-12):
            raise Failure("stock Lightning is right by now")
        return f"better than stock: {case.why}"
    if stock.error is not None:
        return f"better than stock: {type(stock.error).__name__} there"
    if not difference(stock.left, ours.left):
        return "same bits"
    if seeded is not None and not difference(seeded.left, ours.left):
        return "same bits, same draws"
    new = [line for line in ours.lines if line not in stock.lines]
    if not new:
        raise Failure(f"differs in silence: {difference((seeded or stock).left, ours.left)}")
    return f"differs: {new[0]}"


def _cut(case: Case, expected: Outcome, cut: Outcome) -> str:
    if cut.refusal:
        return f"refused: {cut.refusal}"
    if cut.error is not None:
        if type(expected.error) is type(cut.error) and line_of(expected.error) == line_of(cut.error):
            return f"same error: {line_of(cut.error)}"
        raise Failure(f"{type(cut.error).__name__}: {line_of(cut.error)}") from cut.error
    found = difference(expected.left, cut.left, 1e-12)
    if not found:
        if case.not_exact:
            raise Failure(f"is exact, although it says: {case.not_exact}")
        return "same to 1e-12" if difference(expected.left, cut.left) else "same bits"
    new = [line for line in cut.lines if line not in expected.lines]
    if new:
        return f"differs: {new[0]}"
    if case.not_exact:
        if case.not_exact not in inexact_rows():
            raise Failure(f"{ENGINE.name} has no row that says so: {case.not_exact}")
        return f"not exact: {case.not_exact}"
    raise Failure(f"differs in silence: {found}")


def inexact_rows() -> list[str]:
    """Of the engine's table of what is exact, the rows that say that something is not."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .+ \|$", ENGINE.read_text(), re.MULTILINE)
    return [what for what, verdict in rows if "exact" not in verdict or "else" in verdict]


def line_of(error: BaseException | None) -> str:
    """What an error says: its first line, or the last one of a traceback that a process has sent."""
    lines = [line for line in str(error).split("\n") if line.strip()] or [""]
    line = lines[-1] if "Traceback" in str(error) else lines[0]
    return shortened(line.replace("`_", "`"))  # of Lightning's classes, whose names begin so


def shortened(line: str) -> str:
    words = " ".join(line.split())
    return words[:240] + ("..." if len(words) > 240 else "")


# ---- running -----------------------------------------------------------------------------------------------


def outcome(run: Callable[..., Any], Kind: Any, **flags: Any) -> Outcome:
    """What a case leaves, in an empty folder, with generators as in every other run, and float64."""
    found = Outcome()
    with fresh_place(), said_in(found.lines):
        try:
            found.left = run(Kind, **flags)
        except Exception as error:
            found.error = error
    return found


@contextmanager
def fresh_place() -> Iterator[None]:
    """An empty folder, generators seeded, float64, no seed of Lightning's; all is put back."""
    before, seed, put_back = Path.cwd(), os.environ.pop("PL_GLOBAL_SEED", None), remember_generators()
    torch.set_default_dtype(torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        try:
            yield
        finally:
            os.chdir(before)
            torch.set_default_dtype(torch.float32)
            put_back()
            os.environ.pop("PL_GLOBAL_SEED", None)
            if seed is not None:
                os.environ["PL_GLOBAL_SEED"] = seed


@contextmanager
def said_in(lines: list[str]) -> Iterator[None]:
    """Collects what ours says, and keeps everybody quiet."""

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(" ".join(record.getMessage().split()))

    def keep(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        if "metronome" in Path(filename).parts:
            lines.append(" ".join(str(message).split()))

    ours, keeps = logging.getLogger("metronome"), Keeps(logging.INFO)
    others = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "torch.distributed")]
    levels, level, propagates = [logger.level for logger in others], ours.level, ours.propagate
    ours.setLevel(logging.INFO)
    ours.addHandler(keeps)
    ours.propagate = False
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = keep
            yield
    finally:
        ours.removeHandler(keeps)
        ours.propagate = propagates
        ours.setLevel(level)
        for logger, before in zip(others, levels, strict=True):
            logger.setLevel(before)


class DrawsAsOurs(L.Trainer):
    """Stock Lightning, whose generators are seeded where ours are: for the order of an epoch, for the fetch of each
    batch, and for its step."""

    def __init__(self, **flags: Any) -> None:
        callbacks = flags.pop("callbacks", None) or []
        super().__init__(callbacks=[_Seeds(), *(callbacks if isinstance(callbacks, list) else [callbacks])], **flags)


class _Seeds(Callback):
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        seed, device = seed_of_everything(), torch.device("cpu")
        of_fetch, of_step = StepSeeds(seed, device, None), StepSeeds(seed, device, trainer.global_rank)
        loop, plugin = trainer.fit_loop, trainer.precision_plugin
        epoch_loop, convert = loop.epoch_loop, plugin.convert_input

        def for_the_order(do: Callable[..., Any]) -> Callable[..., Any]:
            def done(*arguments: Any) -> Any:
                put_back = remember_generators()
                of_fetch(trainer.current_epoch, 0)
                result = do(*arguments)
                put_back()
                return result

            return done

        def advance(fetcher: Any, do: Callable[..., Any] = epoch_loop.advance) -> Any:
            of_fetch(trainer.current_epoch, epoch_loop.batch_progress.current.ready)
            return do(fetcher)

        def fetched(batch: Any) -> Any:
            if trainer.training:
                of_step(trainer.current_epoch, epoch_loop.batch_progress.current.ready)
            return convert(batch)

        loop.setup_data = for_the_order(loop.setup_data)
        epoch_loop.on_run_start = for_the_order(epoch_loop.on_run_start)
        epoch_loop.advance, plugin.convert_input = advance, fetched


# ---- comparing ---------------------------------------------------------------------------------------------


def difference(a: Any, b: Any, tolerance: float = 0.0, place: str = "") -> str:
    """Where two results part, and by how much; nothing where they are equal, or as close as that."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _of_tensors(a, b, tolerance, place)
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{place} has {sorted(map(str, a))} and {sorted(map(str, b))}"
        pairs = [(f"{place}.{name}".lstrip("."), a[name], b[name]) for name in a]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{place} has {len(a)} and {len(b)} parts"
        pairs = [(f"{place}[{i}]", *both) for i, both in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, float) and isinstance(b, float):
        return _of_tensors(torch.tensor(a), torch.tensor(b), tolerance, place)
    else:
        return "" if a == b else f"{place}: {a!r} and {b!r}"
    return next((found for name, x, y in pairs if (found := difference(x, y, tolerance, name))), "")


def _of_tensors(a: Tensor, b: Tensor, tolerance: float, place: str) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{place}: {a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
    with suppress(AssertionError):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance / 100, equal_nan=True)
        return ""
    return f"{place}: by {float((a.double() - b.double()).abs().max()):.1e}"
