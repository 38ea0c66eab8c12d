"""Which of several numbers are best, where numbers that differ by rounding are the same."""

from collections.abc import Iterable, Sequence

# Float32 keeps 7 digits, and over the steps of a run the order of additions moves the sixth: a batch of 512 cut in 8
# and the same batch whole came to losses of 1.523739 and 1.523736 after 24 steps (2e-6 apart).
ROUNDING = 1e-5


def same(one: float, other: float) -> bool:
    """Whether two numbers differ by rounding at most.

    >>> same(1.523739, 1.523736), same(0.25, 0.2501)
    (True, False)
    """
    return one == other or abs(one - other) <= ROUNDING * max(abs(one), abs(other))


def has_come_to(value: float, target: float, best_is_low: bool) -> bool:
    """Whether a value is at the target, or better."""
    return (value <= target if best_is_low else value >= target) or same(value, target)


def best_of(found: Sequence[tuple[float, str]], is_low: bool) -> tuple[float, list[str]]:
    """The best value, and whose it is: of all that have it, in the order given."""
    best = min(value for value, _ in found) if is_low else max(value for value, _ in found)
    return best, [name for value, name in found if same(value, best)]


def with_whom(names: Sequence[str], all_names: Iterable[str], longest: int = 60) -> str:
    """`with 8`; `with 8 and 16` where they are tied; `, the same with all`.

    >>> with_whom(["8"], ["8", "16"]), with_whom(["1", "2"], ["1", "2"]), with_whom(["1", "2"], ["1", "2", "4"])
    ('with 8', 'the same with all', 'with 1 and 2, which are the same')
    """
    every = list(all_names)
    if len(every) > 1 and len(names) == len(every):
        return "the same with all"
    if len(names) == 1:
        name = names[0]
        return f"with {name if len(name) <= longest else name[: longest - 2] + '…'}"
    words = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"with {words if len(words) <= longest else f'{len(names)} of {len(every)}'}, which are the same"
