"""W3C Trace Context: a payment's trace begins at the door and travels in every header after it.

Source: W3C Trace Context, section 3.2 (`traceparent`).
"""

import os
import re

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """Whether a text is a well-formed `traceparent`."""
    return _TRACEPARENT.fullmatch(text) is not None


def traceparent_or_new(header: str | None) -> str:
    """Return the caller's `traceparent` where it is well formed, else one that begins a trace."""
    if header is not None and is_traceparent(header):
        return header
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"


def trace_id(traceparent: str | None) -> str | None:
    """Return the trace id of a `traceparent`, for log lines."""
    return traceparent.split("-")[1] if traceparent else None
