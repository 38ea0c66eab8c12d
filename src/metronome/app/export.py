"""A checkpoint as a program that runs without this library: PyTorch's exported program, or ONNX."""

import logging
import warnings
from collections.abc import Iterable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.export import Dim

from metronome.app.config.places import short
from metronome.app.console import output
from metronome.app.errors.messages import one_line
from metronome.app.predict import check_split, predict_split
from metronome.app.reopen import reopen
from metronome.units import InputError

SUFFIXES = (".pt2", ".onnx")
_INSTALL = "pip install -e '.[export]'"
# How far the program may be from the module, relative to the largest output: other kernels round in another way.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """The file; the shapes of its inputs and its outputs, with None where any size will do; the largest difference from
    the module, and the largest output, over batches of so many samples."""

    path: Path
    inputs: list[tuple[int | None, ...]]
    outputs: list[tuple[int | None, ...]]
    difference: float
    largest: float
    samples: list[int]


def export(
    path: str | Path, to: str | Path, changes: list[str] | None = None, allow: str | Iterable[str] = ()
) -> Exported:
    """Export the `forward` of a checkpoint's module, for batches of any size, and compare it with the module.

    What is exported takes what `forward` takes in a test: after all that the data module does to a batch.

    Args:
        path: a checkpoint of a run of this project.
        to: the file to write, .pt2 (`torch.export`) or .onnx.
        changes: values of its configuration to change, as `key=value`.
        allow: packages that the configuration may use beside those of `metronome.load`.

    Raises:
        InputError: as `evaluate` does; for a module that cannot be exported, a package that is missing, and a program
            that gives other numbers than the module: then no file is written.
    """
    output.quiet()
    file = Path(to)
    if file.suffix not in SUFFIXES:
        raise InputError(f"--to {file} is no kind of program that is written here; use {' or '.join(SUFFIXES)}")
    if file.suffix == ".onnx":
        _onnx()
    trainer, model, data = reopen(path, changes or [], allow)
    module, inputs = _called(trainer, model, data)
    module = module.cpu().eval()
    if isinstance(module, L.LightningModule):
        vars(module)["_trainer"] = None  # no part of a program
    batches = [inputs, tuple(tensor[: len(tensor) // 2 + 1] for tensor in inputs)]
    with _told_shortly(model):
        program = torch.export.export(module, inputs, dynamic_shapes=_any_batch(inputs))
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as aside:
        with _told_shortly(model):
            run = _save(program, inputs, Path(aside) / file.name)
            pairs = [pair for batch in batches for pair in _pairs(module, run, batch)]
        difference = max(float((found - expected).abs().max()) for found, expected in pairs)
        largest = max(float(expected.abs().max()) for _, expected in pairs)
        if not difference <= _TOLERANCE * max(largest, 1e-30):
            raise InputError(
                f"the exported program gives other numbers than {type(model).__name__}: they differ by "
                f"{difference:.3g}, where the largest is {largest:.3g}"
            )
        for part in Path(aside).iterdir():  # of a large ONNX file the weights lie beside it
            part.replace(file.parent / part.name)
    signature = program.graph_signature
    given, made = (_shapes(program, names) for names in (signature.user_inputs, signature.user_outputs))
    return Exported(file, given, made, difference, largest, [len(batch[0]) for batch in batches])


def _pairs(module: nn.Module, run: Any, batch: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """What the program gives for a batch, beside what the module does."""
    with torch.no_grad():
        expected = _tensors(module(*batch))
    found = run(batch)
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        raise InputError(f"the exported program gives outputs of other shapes than {type(module).__name__}")
    return [(a.detach().double(), b.double()) for a, b in zip(found, expected, strict=True)]


def _shapes(program: Any, names: Iterable[Any]) -> list[tuple[int | None, ...]]:
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [nodes[name].meta["val"].shape for name in names]
    return [tuple(size if isinstance(size, int) else None for size in shape) for shape in shapes]


def _called(
    trainer: Any, model: L.LightningModule, data: L.LightningDataModule
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What is called in a prediction with tensors, and with which: the module, else the network in it."""
    seen: dict[nn.Module, Any] = {}

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.setdefault(module, (args, kwargs))

    network = getattr(model, "network", None)
    owners = [model, *([network] if isinstance(network, nn.Module) else [])]
    hooks = [owner.register_forward_pre_hook(note, with_kwargs=True) for owner in owners]
    try:
        _one_batch(trainer, model, data)
    finally:
        for hook in hooks:
            hook.remove()
    for owner in owners:
        if owner in seen:
            args, kwargs = seen[owner]
            if kwargs or not args or not all(isinstance(arg, Tensor) and arg.ndim for arg in args):
                kinds = ", ".join([type(arg).__name__ for arg in args] + [f"{name}=..." for name in kwargs])
                raise InputError(
                    f"{type(owner).__name__} is called with {kinds or 'nothing'}, and a program takes tensors, a row a "
                    "sample; let forward take tensors"
                )
            return owner, tuple(_two_rows(arg.detach().cpu().clone()) for arg in args)
    raise InputError(
        f"{type(model).__name__} does not call its forward in a test, so what to export is not known; let test_step "
        "or predict_step call self(inputs)"
    )


def _one_batch(trainer: Any, model: L.LightningModule, data: L.LightningDataModule) -> None:
    """What a test does with its first batch, or a prediction where there is no test."""
    trainer.limit_test_batches = trainer.limit_predict_batches = 1
    if type(model).test_step is not L.LightningModule.test_step:
        trainer.test(model, datamodule=data, verbose=False)
    else:
        predict_split(trainer, model, data, check_split(data, None))


def _two_rows(tensor: Tensor) -> Tensor:
    """A batch of one is taken for one that is never larger."""
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])


def _any_batch(inputs: tuple[Tensor, ...]) -> Any:
    """Any number of samples; of tokens any number too, where the module lets it be."""
    batch = Dim("batch")
    return tuple({0: batch} if t.is_floating_point() or t.ndim < 2 else {0: batch, 1: Dim.AUTO} for t in inputs)


def _save(program: Any, inputs: tuple[Tensor, ...], file: Path) -> Any:
    """Write the program; returns what runs it as it lies in the file."""
    if file.suffix == ".pt2":
        torch.export.save(program, file)
        again = torch.export.load(file).module()
        return lambda batch: _tensors(again(*batch))
    names = ["inputs"] if len(inputs) == 1 else [f"inputs_{i}" for i in range(len(inputs))]
    made: Any = torch.onnx.export(program, inputs, dynamo=True, input_names=names, verbose=False)
    made.save(str(file))
    run = _runner(file)
    return lambda batch: [torch.from_numpy(a) for a in run(dict(zip(names, [t.numpy() for t in batch], strict=True)))]


def _runner(file: Path) -> Any:
    """What runs an ONNX file: ONNX Runtime where it is there, else the reference of ONNX itself."""
    try:
        session = import_module("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except ImportError:
        session = import_module("onnx.reference").ReferenceEvaluator(str(file))
    return lambda named: session.run(None, named)


def _onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise InputError(f"an ONNX file needs the package {package}, which is not there: {_INSTALL}") from error


def _tensors(found: Any) -> list[Tensor]:
    parts = [found] if isinstance(found, Tensor) else list(found.values() if isinstance(found, dict) else found)
    if not all(isinstance(part, Tensor) for part in parts):
        raise InputError(f"forward gives {', '.join(type(part).__name__ for part in parts)}, and a program tensors")
    return parts


@contextmanager
def _told_shortly(model: L.LightningModule) -> Any:
    """While PyTorch exports: its hints are kept off the terminal, and an error is told in one line."""
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            for name in ("torch.onnx", "onnxscript", "onnx_ir"):
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} cannot be exported for batches of any size: {short(one_line(error))}"
        ) from error
