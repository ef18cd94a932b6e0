#!/usr/bin/env python3
"""Sums up Autobahn reports: prints the table, names what is wrong, and writes the page or compares it."""

import argparse
import collections
import json
import pathlib
import sys

SECTIONS = {
    1: ("Framing: text and binary messages of 0 to 65,536 bytes", 16),
    2: ("Pings and pongs", 11),
    3: ("Reserved bits", 7),
    4: ("Reserved opcodes", 10),
    5: ("Fragmentation", 20),
    6: ("UTF-8", 145),
    7: ("Closing handshake and close codes", 37),
    9: ("Large messages, up to 16 MiB, also in fragments and in small TCP pieces", 54),
    10: ("Automatic fragmentation", 1),
}
# The suite calls a case non-strict when the standard is met later than it might be, and informational when it has no verdict.
BEHAVIOURS = ["OK", "NON-STRICT", "INFORMATIONAL", "FAILED"]
PAGE = """# WebSocket conformance

The gateway's WebSocket layer (`httvps-transport`, behind the echo example `ws_echo`, over TLS) against the fuzzing client of the Autobahn
test suite 25.10.1. Compression is not offered, so its sections 12 and 13 do not apply. The bar is: nothing failed, every close clean.

The server under test is `crates/httvps-transport/examples/ws_echo.rs`: the same TLS stream, upgrade and WebSocket connection as the gateway's, with an echo on top and
the limit of a message raised to 64 MiB for section 9.

Written by `.ci/test-autobahn` (`tests/autobahn/report.py`), which CI runs and compares with this page.

{table}
Closes: {closes}. The informational cases ({informational}) are those that the suite only observes.
"""


def load(paths):
    cases = {}
    for path in paths:
        (reports,) = json.loads(path.read_text()).values()
        cases.update(reports)
    return cases


def numbers(case):
    return [int(part) for part in case.split(".")]


def table(cases):
    head = ["section", "about", "cases", "OK", "non-strict", "informational", "failed"]
    rows = [head, ["---", "---"] + ["---:"] * 5]
    by_section = collections.defaultdict(collections.Counter)
    for case, verdict in cases.items():
        by_section[numbers(case)[0]][verdict["behavior"]] += 1
    for section, counts in sorted(by_section.items()):
        about = SECTIONS.get(section, ("",))[0]
        rows.append([section, about, counts.total(), *(counts[b] for b in BEHAVIOURS)])
    total = sum(by_section.values(), collections.Counter())
    rows.append(["all", "", total.total(), *(total[b] for b in BEHAVIOURS)])
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)


def problems(cases):
    """What keeps the result below the bar, one line each."""
    for section, (_, expected) in SECTIONS.items():
        found = sum(numbers(case)[0] == section for case in cases)
        if found != expected:
            yield f"section {section}: {found} of {expected} cases ran"
    for case, verdict in sorted(cases.items(), key=lambda item: numbers(item[0])):
        if verdict["behavior"] not in BEHAVIOURS[:3]:
            yield f"case {case}: {verdict['behavior']}"
        if verdict["behaviorClose"] not in ("OK", "INFORMATIONAL"):
            yield f"case {case}: close {verdict['behaviorClose']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare PAGE instead of writing it")
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("reports", type=pathlib.Path, nargs="+")
    args = parser.parse_args()

    cases = load(args.reports)
    closes = collections.Counter(verdict["behaviorClose"].lower() for verdict in cases.values())
    page = PAGE.format(
        table=table(cases),
        closes=", ".join(f"{n} {'OK' if what == 'ok' else what}" for what, n in closes.most_common()),
        informational=", ".join(case for case in sorted(cases, key=numbers) if cases[case]["behavior"] == "INFORMATIONAL"))
    print(table(cases), end="")
    wrong = list(problems(cases))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    if not args.check:
        args.page.write_text(page)
    elif not args.page.exists() or args.page.read_text() != page:
        print(f"{args.page} differs from this result; write it again with .ci/test-autobahn", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
