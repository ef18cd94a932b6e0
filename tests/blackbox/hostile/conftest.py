"""The hostile list. After each case the process lives, a new session works, the gauges are at 0, and descriptors and memory are back.

The measured figures go into the table target/hostile.md.
"""

import pytest

from rig.gateway import ROOT
from rig.hostile import QUICK, Case, try_session
from rig.poll import eventually


@pytest.fixture(scope="session")
def table():
    """Rows of figures, written out at the end."""
    rows = []
    yield rows
    head = ["case", "seconds", "descriptors before", "after", "RSS before, MiB", "peak", "after", "CPU seconds", "what happened"]
    path = ROOT / "target" / "hostile.md"
    path.parent.mkdir(exist_ok=True)
    lines = ["# Hostile cases, measured", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    path.write_text("\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n")


@pytest.fixture
def case(start, table, request):
    """case(**settings): starts a gateway, warms it up and takes the first figures."""
    name, begun = request.node.name.removeprefix("test_").replace("_", " "), []

    def begin(**settings):
        gateway = start(**(QUICK | {"admin": True} | settings))
        for _ in range(5):
            assert try_session(gateway)
        eventually(gateway.is_idle, 5, "the warm-up is over")
        begun.append(Case(name, gateway, table))
        return begun[-1]
    yield begin
    for one in begun:
        one.record_failure()
