"""Amounts of a large training as a person reads them."""

from metronome.units.amounts import digits, seconds_text

_BYTES = (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
_YEAR, _DAY = 365.25 * 86_400, 86_400


def sizes_text(count: float) -> str:
    """
    >>> sizes_text(51_583_681_296), sizes_text(1.2e12), sizes_text(80e9), sizes_text(0)
    ('51.6 GB', '1.20 TB', '80.0 GB', '0 B')
    """
    for unit, size in _BYTES:
        if count >= size:
            return f"{count:.0f} B" if unit == "B" else f"{digits(count / size)} {unit}"
    return "0 B"


def rate_text(number: float, unit: str) -> str:
    """
    >>> rate_text(4e14, "FLOP/s"), rate_text(5e10, "B/s"), rate_text(7_531, "samples/s")
    ('400 TFLOP/s', '50.0 GB/s', '7,531 samples/s')
    """
    if not unit.startswith(("FLOP", "B/")):
        if number < 1e6:
            return f"{digits(number)} {unit}"
        return f"{whole_number(number)} {unit}"
    prefix, size = next(((p, s) for p, s in _PREFIXES if number >= s), ("", 1.0))
    return f"{digits(number / size)} {prefix}{unit}"


def whole_number(number: float) -> str:
    """
    >>> whole_number(123_200), whole_number(6_447_960_064), whole_number(1e12)
    ('123,200', '6.45 billion', '1.00 trillion')
    """
    for word, size in (("trillion", 1e12), ("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{digits(number / size)} {word}" if number < 1e15 else f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def days_text(seconds: float) -> str:
    """
    >>> days_text(5e-6), days_text(0.31), days_text(200_000), days_text(4e9)
    ('5 us', '310 ms', '2 days 8 h', '127 years')
    """
    if 0 < seconds < 1e-3:
        return f"{digits(seconds * 1e6, 2)} us"
    if seconds >= 10 * _YEAR:
        return f"{seconds / _YEAR:,.0f} years"
    if seconds >= 2 * _DAY:
        days, hours = divmod(round(seconds / 3_600), 24)
        return f"{days:,} days" + (f" {hours} h" if hours and days < 100 else "")
    return seconds_text(seconds)


def count(number: int, noun: str) -> str:
    """
    >>> count(1, "host"), count(1_024, "device")
    ('1 host', '1,024 devices')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
