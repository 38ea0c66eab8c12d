"""Times and sizes as a person reads them: three digits, and a unit that fits."""


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(0.0041), seconds_text(0.31), seconds_text(2.14), seconds_text(95), seconds_text(5025)
    ('4.1 ms', '310 ms', '2.1 s', '1 min 35 s', '1 h 23 min')
    """
    if seconds < 1:
        return f"{digits(seconds * 1e3, 2)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600:,} h {whole % 3_600 // 60} min"


def bytes_text(count: float) -> str:
    """
    >>> bytes_text(78_248), bytes_text(411_004_928), bytes_text(2_500_000_000), bytes_text(512)
    ('78 kB', '411 MB', '2.5 GB', '512 B')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            number = count / size
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:,.0f} {unit}"
    return f"{count:.0f} B"


def digits(number: float, least: int = 3) -> str:
    """A number above 0 with so many digits at least, and no power of ten.

    >>> digits(0.61234), digits(4.9123), digits(17_234.5), digits(0.0), digits(310.0, 2)
    ('0.612', '4.91', '17,234', '0', '310')
    """
    if number <= 0:
        return "0"
    places, bound = least - 1, 10.0
    while places > 0 and number >= bound - 0.5 * 10.0**-places:
        places, bound = places - 1, bound * 10
    if number < 1:
        return f"{float(f'{number:.{least - 1}e}'):g}"
    return f"{number:,.{places}f}"
