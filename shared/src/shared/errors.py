"""The two kinds of failure that decide what happens next.

An error lives beside the code that raises it and derives from one of these: a caller that
retries asks only for the kind, never for a list of driver exceptions.
"""


class TransientError(Exception):
    """The same call may succeed later; nothing about the input has to change."""


class ContendedError(TransientError):
    """Somebody else held what a batch was to change: it may be one item's alone."""


class PermanentError(Exception):
    """The same call will fail for ever; somebody has to change the input or the world."""
