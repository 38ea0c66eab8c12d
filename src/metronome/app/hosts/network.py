"""The network interface over which hosts reach each other. Imports nothing heavy."""

import os
import socket
import struct


def choose_interface(address: str, port: int) -> None:
    """Name it to gloo where nobody has, and gloo would take the wrong one: it asks for this host's own name, which on
    many systems is that of 127.0.1.1, where no other host finds it."""
    if "GLOO_SOCKET_IFNAME" in os.environ or not _is_hidden():
        return
    with socket.create_connection((address, port), timeout=60) as way:
        here = way.getsockname()[0]
    name = next((name for _, name in socket.if_nameindex() if _address_of(name) == here), None)
    if name is not None and not here.startswith("127."):
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _is_hidden() -> bool:
    """Whether this host's name leads nowhere but back to it."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True


def _address_of(interface: str) -> str | None:
    """Its first IPv4 address, where it has one and the system tells it."""
    try:
        from fcntl import ioctl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            told = ioctl(any_socket.fileno(), 0x8915, struct.pack("256s", interface.encode()[:15]))  # SIOCGIFADDR
        return socket.inet_ntoa(told[20:24])
    except (ImportError, OSError):
        return None
