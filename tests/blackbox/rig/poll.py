"""Waiting for a condition with a deadline; the only way the tests wait."""

import time


def eventually(check, within=5.0, what="the condition", every=0.02):
    """Calls `check` until it returns something true and returns that; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within} s (last seen: {value!r})")
        time.sleep(every)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self):
        self.start = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self.start
