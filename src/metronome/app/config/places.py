"""Parts of a checkpoint's configuration, in words: a file may hold anything, also in its names."""


def below(where: str, key: object) -> str:
    """The place of a key in what is at another place."""
    return f"{where}.{key}" if where else str(key)


def asks(where: str, name: str) -> str:
    """What a place wants made."""
    return f"{short(where)} asks for {short(name)}"


def short(text: str, length: int = 300) -> str:
    """A text from a file as it may be shown: a line of letters that are what they look like, not too long."""
    text = ascii(text)[1:-1]
    return text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 2 :]}"
