"""A pseudo-terminal cannot hold parity or seven data bits, and says so only if nothing else changes: ask without."""

import errno
import termios

_original = termios.tcsetattr


def _tolerant(descriptor, when, attributes):
    try:
        _original(descriptor, when, attributes)
    except termios.error as error:
        if error.args[0] != errno.EINVAL:
            raise
        plain = list(attributes)
        plain[2] = plain[2] & ~(termios.PARENB | termios.PARODD | termios.CSIZE) | termios.CS8
        _original(descriptor, when, plain)


def apply():
    """For this process."""
    termios.tcsetattr = _tolerant
