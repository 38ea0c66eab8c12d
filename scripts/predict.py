"""Predict: python scripts/predict.py runs/.../checkpoints/best.ckpt [--split test | --input FILE] [key=value ...]; a
table with a row a sample."""

import argparse

from metronome.app.console.arguments import CHANGES, changes_and_packages
from metronome.app.console.command_line import command_line
from metronome.runs.folders import relative


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a table of what a checkpoint predicts, a row a sample.")
    parser.add_argument("checkpoint", help="the file; its run's configuration is inside it")
    parser.add_argument("--split", help="of the run's data: train, val or test (the default)")
    parser.add_argument("--input", metavar="FILE", help="in their place: .csv, .npy, .npz, a picture, a folder of them")
    parser.add_argument("--out", metavar="FILE", help="the table, .csv or .parquet; else in `predictions` of the run")
    parser.add_argument("--top", type=int, metavar="K", help="only the K most probable classes of each sample")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)
    arguments = parser.parse_intermixed_args()

    from metronome.app.console.output import joined
    from metronome.app.predict import default_table, predict  # only now, so that --help need not wait for torch
    from metronome.app.predicting.table import head

    changes, packages = changes_and_packages(arguments.changes)
    out = arguments.out or default_table(arguments.checkpoint, arguments.split, arguments.input)
    options = {"split": arguments.split, "inputs": arguments.input, "top": arguments.top}
    done = predict(arguments.checkpoint, changes, packages, out=out, **options)
    print(head(done.columns))
    print(f"\nsamples    {len(done):,}")
    if done.metrics:
        print(f"metrics    {'  '.join(f'{name} {value:.4g}' for name, value in sorted(done.metrics.items()))}")
    print(joined("table     ", relative(out)))


if __name__ == "__main__":
    with command_line():
        main()
