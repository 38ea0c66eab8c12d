"""Export: python scripts/export.py runs/.../checkpoints/best.ckpt --to model.pt2 [key=value ...]; a program that runs
without this library, compared with the module before it is written. model.onnx for ONNX."""

import argparse

from metronome.app.console.arguments import CHANGES, changes_and_packages
from metronome.app.console.command_line import command_line
from metronome.runs.folders import relative


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint's network as a program that runs by itself.")
    parser.add_argument("checkpoint", help="the file; its run's configuration is inside it")
    parser.add_argument("--to", required=True, metavar="FILE", help=".pt2 (torch.export) or .onnx")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)
    arguments = parser.parse_intermixed_args()

    from metronome.app.export import export  # only now, so that --help need not wait for torch

    changes, packages = changes_and_packages(arguments.changes)
    done = export(arguments.checkpoint, arguments.to, changes, packages)
    for name, shapes in (("inputs", done.inputs), ("outputs", done.outputs)):
        print(f"{name:10} {'; '.join(_shape(shape) for shape in shapes)}")
    batches = " and ".join(f"{size}" for size in done.samples)
    print(f"compared   batches of {batches}: at most {done.difference:.2g} apart, of {done.largest:.3g}")
    print(f"program    {relative(done.path)}")


def _shape(shape: tuple[int | None, ...]) -> str:
    return " x ".join("samples" if i == 0 else "any" if size is None else str(size) for i, size in enumerate(shape))


if __name__ == "__main__":
    with command_line():
        main()
