"""The story of a report: read the runs, compare, measure, draw, write."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from metronome.report.again.asked import asking_beside
from metronome.report.again.rows import is_summary, read_summary
from metronome.report.answers import answer, asking_of, times_to
from metronome.report.differences import differences
from metronome.report.figures.curves import curve_pictures
from metronome.report.figures.fitting import fitting_picture
from metronome.report.figures.gradient import gradient_files, gradient_pictures
from metronome.report.figures.scaling import scaling_picture
from metronome.report.figures.style import Picture
from metronome.report.figures.sweeps import sweep_pictures
from metronome.report.figures.tradeoff import tradeoff_picture
from metronome.report.html.page import GENERATOR, page
from metronome.report.records import common_folder, read_runs
from metronome.report.summary import summarize, to_csv
from metronome.runs.names import REPORT_FILE, SUMMARY_FILE
from metronome.runs.storage.address import is_address
from metronome.runs.storage.cache import runs_at_hand
from metronome.units import InputError
from metronome.version import __version__

FIGURES = ("curves_", "fitting", "gradient_", "scaling", "sweep_", "tradeoff")  # how the names of their files begin


def report(paths: str | Path | Iterable[str | Path], out: str | Path | None = None, title: str | None = None) -> Path:
    """Read runs, and write `report.html`, its figures as PNG files, and `summary.csv`, a row for each run.

    Args:
        paths: folders of runs, of sweeps, or above; of the last all runs below. Or the summary.csv of an earlier
            report: its tables and figures of results again, without curves, which are not in it. An address where runs
            are stored will do too.
        out: the folder to write to: a new or empty one, or that of an earlier report, which is replaced. Without it,
            `report` in the path, or in the folder that all paths are in; of a summary.csv or an address
            `runs/report_<its name>`.
        title: the heading of the page; without it, the names of the paths.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: if there is no run in the paths, or `out` cannot be written to, or holds something else.
    """
    names = [paths] if isinstance(paths, str | Path) else list(paths)
    if "" in (*names, out):
        raise InputError("the name of a folder is empty; give one, or leave --out away")
    places = [runs_at_hand(name) for name in names]
    repeated = places[0] if len(places) == 1 and is_summary(places[0]) else None
    folder = Path(out) if out is not None else _usual_folder(places, repeated, names)
    check_folder(folder)
    runs, unread = read_runs(places) if repeated is None else (read_summary(repeated), [])
    asking = asking_of(places) if repeated is None else asking_beside(repeated)
    answers = answer(summarize(runs, differences(runs)), asking)
    summary = answers.best

    curves = curve_pictures(summary)
    sweeps = sweep_pictures(summary)
    tradeoff = tradeoff_picture(answers)
    scaling = [picture for picture in [scaling_picture(answers)] if picture is not None]
    fitting = [picture for picture in [fitting_picture(summary)] if picture is not None]
    gradient = gradient_pictures(summary)
    without = sum(not run.curves for run in runs)
    words = "Curves are not in a summary.csv." if repeated is not None else ""
    if without and repeated is None:
        words = f"{without:,} of {len(runs):,} runs left no TensorBoard events, and have no curves."
    drawn = [*scaling, *([tradeoff] if isinstance(tradeoff, Picture) else [])]
    many = len(answers.whole.differences.groups) > 1
    sections = [
        ("The gradient of a batch", "", gradient),
        ("Time against work", tradeoff if isinstance(tradeoff, str) and many else "", drawn),
        ("What the swept values do", "", sweeps),
        ("Training against validation", "", fitting),
        ("Curves", words, curves),
    ]
    heading = title or ("Runs in " if repeated is None else "Results in ") + ", ".join(p.resolve().name for p in places)
    source = "" if repeated is None else f"Read from {repeated.name}, which has all results, and no curves."
    html = page(heading, answers, unread, sections, __version__, source)
    files: dict[str, bytes] = {}
    for picture in (*gradient, *curves, *fitting, *sweeps, *drawn):
        name = picture.name
        while f"{name}.png" in files:  # val/loss and val_loss
            name += "_"
        files[f"{name}.png"] = picture.png
    of = answers.target
    is_other = of is not None and (of.metric, of.best_is_low, of.confirm) != (summary.monitor, summary.best_is_low, 1)
    table = to_csv(answers.whole, times_to(of), of.words if of is not None and is_other else "")
    files |= gradient_files(summary) | {SUMMARY_FILE: table.encode(), REPORT_FILE: html.encode()}
    write_folder(folder, files)
    return folder / REPORT_FILE


def _usual_folder(places: list[Path], repeated: Path | None, names: list[str | Path]) -> Path:
    if any(map(is_address, names)):
        return Path("runs") / f"report_{common_folder(places).name}"
    return common_folder(places) / "report" if repeated is None else Path("runs") / f"report_{repeated.stem}"


def check_folder(folder: Path) -> None:
    """Raises InputError for a folder that a report is not to be written to: a file, or one that holds other things."""
    if folder.is_dir():
        if any(folder.iterdir()) and not is_report(folder):
            raise InputError(
                f"{folder} holds something that is no report; give a new folder, e.g. --out {folder}/report"
            )
    elif folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is a file; give a folder with --out, e.g. --out {folder.parent / 'report'}")


def is_report(folder: Path) -> bool:
    try:
        with open(folder / REPORT_FILE, encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(1000)
    except OSError:
        return False


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files aside, then give them their names, the page last. Figures that an earlier report had go.

    Raises:
        InputError: if the folder cannot be written to; what was there before is whole then.
    """
    asides = {name: folder / f"{name}.part" for name in files}
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            asides[name].write_bytes(content)
        for name, aside in asides.items():
            os.replace(aside, folder / name)
    except OSError as error:
        for aside in asides.values():
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another folder with --out") from error
    for stale in folder.glob("*.png"):
        if stale.name not in files and stale.name.startswith(FIGURES):
            stale.unlink(missing_ok=True)
