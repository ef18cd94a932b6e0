"""A strict reader of the Prometheus text formats (0.0.4 and OpenMetrics)."""

import re

SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: (\S+))?(?: # \{.*\} \S+(?: \S+)?)?")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
COMMENT = re.compile(r"# (?:(?:HELP|TYPE|UNIT) [a-zA-Z_:][a-zA-Z0-9_:]*(?: .*)?|EOF)")


class Exposition:
    """The samples of one scrape."""

    def __init__(self, text):
        self.text = text
        self.types = {}
        self.samples = []
        for line in text.splitlines():
            if line.startswith("#"):
                assert COMMENT.fullmatch(line), f"not a comment of the format: {line!r}"
                words = line.split(" ", 3)
                if words[1] == "TYPE":
                    self.types[words[2]] = words[3]
            elif line:
                self.samples.append(self._sample(line))

    @staticmethod
    def _sample(line):
        match = SAMPLE.fullmatch(line)
        assert match, f"not a sample of the format: {line!r}"
        name, labels, value = match.group(1), match.group(2) or "", float(match.group(3))
        pairs, at = {}, 0
        while at < len(labels):
            label = LABEL.match(labels, at)
            assert label, f"bad labels: {line!r}"
            pairs[label.group(1)] = label.group(2)
            at = label.end()
        return name, pairs, value

    def series(self, name, **labels):
        """All samples of `name` whose labels include `labels`."""
        return [(have, value) for (n, have, value) in self.samples
                if n == name and all(have.get(k) == v for k, v in labels.items())]

    def has(self, name, **labels):
        return bool(self.series(name, **labels))

    def sum(self, name, **labels):
        """The sum of all matching samples; 0 when there is none."""
        return sum(value for _, value in self.series(name, **labels))

    def type_of(self, name):
        """The declared type; OpenMetrics declares a counter without its `_total`."""
        return self.types.get(name) or self.types.get(name.removesuffix("_total"))
