"""A process of a run that is gone: what those that are left meet of it, in one line. Imports nothing heavy."""

import re

# What gloo, NCCL and PyTorch's store say where the other end of a connection has died, or does not answer.
_GONE = re.compile(
    r"connection (?:closed|reset|refused|was likely closed)|broken pipe|remote process exited|timed out connecting"
    r"|timed out waiting \d+ms for (?:recv|send)|watchdog|failed to (?:recv|send)|socket (?:closed|error)"
    r"|NCCL (?:error|communicator was aborted)|no route to host|network is unreachable",
    re.IGNORECASE,
)
_SPEAKS = re.compile(r"gloo|nccl|c10d|TCPStore|DistNetworkError|DistBackendError|DistStoreError|socket", re.IGNORECASE)
_ADDRESS = re.compile(r"\[?((?:\d{1,3}\.){3}\d{1,3})\]?:\d+")


def lost_company(error: BaseException) -> str | None:
    """The line for an error that means that another process of the run is gone; None for any other.

    >>> lost_company(RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read [10.0.0.2]:83: Connection reset"))
    'a process of this run is gone, at 10.0.0.2; the same command with resume=auto goes on from the last checkpoint'
    """
    if not isinstance(error, RuntimeError):
        return None
    text = f"{type(error).__name__}: {error}"
    if not (_GONE.search(text) and _SPEAKS.search(text)):
        return None
    remote = text.rpartition("remote=")[2]
    found = _ADDRESS.search(remote)
    return gone(None if found is None or found[1].startswith("127.") else f"at {found[1]}")


def gone(how: str | None = None) -> str:
    """The line that says so, with where or how."""
    where = "" if how is None else f", {how}"
    return f"a process of this run is gone{where}; the same command with resume=auto goes on from the last checkpoint"
