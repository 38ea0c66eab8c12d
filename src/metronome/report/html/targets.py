"""The tables of targets: what each setting takes to come there, and every value that was tried of what is tuned."""

from collections.abc import Sequence
from statistics import stdev

from metronome.report.answers import Answers
from metronome.report.differences import number_of
from metronome.report.figures.style import plain
from metronome.report.html.elements import escaped
from metronome.report.targets import Reached
from metronome.report.ties import best_of
from metronome.report.tuning import Setting, final_value

AXES = {"steps": "steps", "samples": "samples", "seconds": "seconds of training"}


def targets(answers: Answers) -> str:
    """For each value of the target a table of the settings; where something is tuned, one of all that was tried."""
    target = answers.target
    if target is None:
        return ""
    sign = "≤" if target.best_is_low else "≥"
    in_a_row = f", in {target.confirm} validations in a row" if target.confirm > 1 else ""
    parts = [
        '<p class="note">Mean interval from the validation before to the first that has it, ± the standard deviation '
        "over the runs; only where all runs have it.</p>"
    ]
    for value, found in answers.by_target.items():
        parts.append(f"<h3>{escaped(target.metric)} {sign} {plain(value)}{in_a_row}</h3>{target_table(answers, value)}")
        if answers.tune is not None:
            said = f"Every {escaped(answers.tune)} that was tried: steps"
            parts.append(f"<details><summary>{said}</summary>{_tried(answers, found)}</details>")
    return "".join(parts)


def target_table(answers: Answers, value: float) -> str:
    """What each setting takes to one value of the target, the least marked."""
    found = answers.by_target[value]
    keys = [key for key in answers.whole.differences.keys if key != answers.tune]
    heads = [*((key, True) for key in keys), *((name, False) for name in AXES.values())]
    heads += [("reached", True), *([(f"best {answers.tune}", True)] if answers.tune else [])]
    best = {axis: _best(found, axis) for axis in AXES}
    rows: list[str] = []
    for setting in found:
        cells = [_word(setting.values[key], _sorted_by(key, setting)) for key in keys]
        came_to = setting.came_to or Reached([], 0)
        cells += [_interval(came_to, axis, setting.label in best[axis]) for axis in AXES]
        cells.append(_word(came_to.count))
        if answers.tune:
            edge = (" (edge)" if setting.at_edge else "") + ("" if setting.by_steps else " (by its last value)")
            cells.append(_word("–" if setting.chosen is None else f"{setting.chosen.values[answers.tune]}{edge}"))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _sortable(heads, rows)


def _tried(answers: Answers, found: Sequence[Setting]) -> str:
    """Settings by tuned values: steps, `2 of 3` where not all came there, and the final metric where none did."""
    assert answers.tune is not None
    assert answers.target is not None
    keys = [key for key in answers.whole.differences.keys if key != answers.tune]
    numbers: dict[str, float] = {}
    for setting in found:
        for group in setting.groups:
            value = group.values[answers.tune]
            numbers[value] = number_of(answers.tune, value, group.runs[0]) or 0.0
    values = sorted(numbers, key=lambda value: (numbers[value], value))
    rows: list[str] = []
    for setting in found:
        cells = [_word(setting.values[key], _sorted_by(key, setting)) for key in keys]
        for value in values:
            i = next((i for i, group in enumerate(setting.groups) if group.values[answers.tune] == value), None)
            if i is None:
                cells.append('<td data-v=""></td>')
                continue
            came_to = setting.reached[i]
            middle = came_to.middle("steps")
            if middle is not None:
                text = plain(round(middle, 1))
                cells.append(
                    f'<td data-v="{middle!r}">{f"<strong>{text}</strong>" if i == setting.best else text}</td>'
                )
            elif came_to.hits:
                cells.append(f'<td data-v="">{escaped(came_to.count)}</td>')
            else:
                final = final_value(setting.groups[i], answers.target.metric)
                said = "–" if final is None else f"<small>ends at {plain(float(f'{final:.3g}'))}</small>"
                cells.append(f'<td data-v="">{said}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _sortable([*((key, True) for key in keys), *((value, False) for value in values)], rows)


def _best(found: Sequence[Setting], axis: str) -> list[str]:
    known = [(m, s.label) for s in found if s.came_to is not None and (m := s.came_to.middle(axis)) is not None]
    return best_of(known, True)[1] if len(known) > 1 else []


def _interval(came_to: Reached, axis: str, is_best: bool) -> str:
    ends, middles = came_to.interval(axis), came_to.middles(axis)
    if ends is None:
        return '<td data-v=""></td>'
    spread = f" <small>± {plain(float(f'{stdev(middles):.2g}'))}</small>" if len(middles) > 1 else ""
    low, high = (plain(_short(end)) for end in ends)
    text = f"{low} – {high}"
    text = f"<strong>{text}</strong>" if is_best else text
    return f'<td{" class=best" if is_best else ""} data-v="{sum(ends) / 2!r}">{text}{spread}</td>'


def _short(value: float) -> float:
    return round(value, 1) if value >= 100 else float(f"{value:.3g}")


def _sorted_by(key: str, setting: Setting) -> str | None:
    size = number_of(key, setting.values[key], setting.groups[0].runs[0])
    return None if size is None else f"{size:.17g}"


def _word(value: str, sorted_by: str | None = None) -> str:
    return f'<td class="word" data-v="{escaped(value if sorted_by is None else sorted_by)}">{escaped(value)}</td>'


def _sortable(heads: Sequence[tuple[str, bool]], rows: list[str]) -> str:
    cells = [
        f'<th scope="col"{" class=word" if word else ""}><button type="button">{escaped(name)}</button></th>'
        for name, word in heads
    ]
    head, body = f"<thead><tr>{''.join(cells)}</tr></thead>", "\n".join(rows)
    return f'<div class="table"><table class="sortable">{head}<tbody>\n{body}\n</tbody></table></div>\n'
