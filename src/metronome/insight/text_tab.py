"""A run as texts of TensorBoard's text tab, in Markdown: its command, its configuration, its result, its advice."""

import json
import os
import shlex
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import text

WIDTH = 100  # letters in a line of a command
_MOST_LETTERS = 300  # of a value in a table


def command_text(script: str, overrides: Sequence[str]) -> str:
    """The command line, ready to copy; a long one goes over several lines."""
    lines = [f"python {script}"]
    for word in map(shlex.quote, overrides):
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}"
    return "\n".join(f"    {line}" for line in lines)


def configuration_text(config: Mapping[str, Any], overrides: Collection[str] = ()) -> str:
    """A row for each value, by the key that changes it; those that were typed in bold."""
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    rows = []
    for key, value in _values(config):
        bold = "**" if any(key == name or key.startswith(f"{name}.") for name in typed) else ""
        rows.append([f"{bold}{code(key)}{bold}", code(value)])
    return table(["key", "value"], rows)


def result_text(content: Mapping[str, Any]) -> str:
    """What result.json says, in short: how it ended, what was measured, what it took."""
    rows = [["status", str(content["status"])]]
    if content.get("error"):
        rows.append(["error", code(content["error"])])
    if best := content.get("best"):
        at = "" if best["step"] is None else f" at step {best['step']:,}"
        rows.append([f"best {best['monitor']}", f"{_number(best['value'])}{at}"])
    metrics = content.get("metrics") or {}
    tested_last = sorted(metrics.items(), key=lambda item: (not item[0].startswith("test"), item[0]))
    rows += [[name, _number(value)] for name, value in tested_last]
    progress = content.get("progress") or {}
    rows += [[name, f"{value:,}"] for name, value in progress.items() if name != "by_set"]
    rows += [
        [f"samples of {name}", f"{seen['samples']:,} = {seen['epochs']:,.4g} epochs"]
        for name, seen in progress.get("by_set", {}).items()
    ]
    rows += [[f"seconds: {name}", f"{value:,.1f}"] for name, value in content["seconds"].items() if value]
    if rate := content.get("samples_per_second"):
        rows.append(["samples a second", f"{rate:,.0f}"])
    if memory := content.get("peak_memory_bytes"):
        rows.append(["peak memory", f"{memory / 2**20:,.0f} MiB"])
    if start := content.get("resumed_from"):
        rows.append(["went on from", f"{code(start['checkpoint'])} at step {start['step']:,}"])
    rows += [[name.replace("_", " "), str(len(content[name]))] for name in ("out_of_memory", "nonfinite")
             if content.get(name)]  # fmt: skip
    rows += [[name, code(content[name])] for name in ("weights_sha256", "git_commit") if content.get(name)]
    rows += [[name, str(version)] for name, version in content["versions"].items()]
    return table(["result", ""], rows)


def advice_text(advice: Sequence[Mapping[str, Any]]) -> str:
    """A row for each advice: symptom, evidence, what to do, and the flags that do it."""
    if not advice:
        return "nothing to advise"
    rows = [[_cell(entry.get(name, "")) for name in ("symptom", "evidence", "advice")] for entry in advice]
    flags = [code(entry.get("flags") or "") for entry in advice]
    rows = [[*row, flag] for row, flag in zip(rows, flags, strict=True)]
    return table(["symptom", "evidence", "what to do", "flags"], rows)


def write_texts(folder: Path, texts: Mapping[str, str], step: int) -> None:
    """Texts in an event file of their own, which a TensorBoard that is running finds too: it reads the files of a
    folder in the order of their names, and so this one's comes right after the last."""
    there = max((path.name for path in folder.glob("events.out.tfevents.*")), default=None)
    name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}" if there is None else there
    folder.mkdir(parents=True, exist_ok=True)
    now, aside = time.time(), folder / "texts.part"
    with open(aside, "wb") as file:
        events = RecordWriter(file)
        events.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for tag, content in texts.items():
            events.write(Event(wall_time=now, step=step, summary=text(tag, content)).SerializeToString())
    os.replace(aside, folder / f"{name}.texts")


# ---- Markdown -----------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as it is typed, in one cell."""
    words = " ".join(_in_words(value).split()).replace("`", "'")
    words = words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]} ..."
    return f"`{words}`" if words else ""


def _cell(value: Any) -> str:
    return " ".join(_in_words(value).split()).replace("|", "\\|")


def _in_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return json.dumps(value, default=str)


def _number(value: Any) -> str:
    return f"{float(value):.4g}"  # JSON holds an infinite one as a text


def _values(config: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below, by its dotted key."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _values(value, f"{where}.{key}" if where else str(key))
    else:
        yield where, config
