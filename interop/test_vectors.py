"""Every entry of testdata/vectors/v2.json against httvps_v2.py: python3 interop/test_vectors.py"""
import dataclasses
import json
import pathlib
import re
import unittest

import httvps_v2 as v2

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTORS = ROOT / "testdata" / "vectors" / "v2.json"
MESSAGES = json.loads(VECTORS.read_text(encoding="utf-8"))["messages"]
CLASSES = {re.sub("(?<!^)([A-Z])", r"_\1", cls.__name__).lower(): cls for cls in (*v2.NUMBERS, v2.Skipped)}


def octets(parts):
    """The bytes of a hex string, or of a list of hex strings and {"repeat": [hex, n]}."""
    if isinstance(parts, str):
        return bytes.fromhex(parts)
    return b"".join(
        bytes.fromhex(part["repeat"][0]) * part["repeat"][1] if isinstance(part, dict) else bytes.fromhex(part)
        for part in parts)


def frame(entry):
    fields = {name: octets(value) if name == "data" else value for name, value in entry.items() if name != "type"}
    return CLASSES[entry["type"]](**fields)


class Vectors(unittest.TestCase):
    def test_file(self):
        names = [message["name"] for message in MESSAGES]
        self.assertEqual(len(names), len(set(names)), "a name comes twice")
        for message in MESSAGES:
            with self.subTest(message["name"]):
                self.assertLessEqual(set(message), {"name", "from", "hex", "frames", "error"})
                self.assertIn(message["from"], ("client", "gateway"))
                self.assertIn(message.get("error"), (None, *v2.ERRORS))
        self.assertEqual({entry["type"] for message in MESSAGES for entry in message["frames"]}, set(CLASSES))
        self.assertEqual({message["error"] for message in MESSAGES if "error" in message}, set(v2.ERRORS))

    def test_decode(self):
        for message in MESSAGES:
            with self.subTest(message["name"]):
                frames, error = v2.decode(octets(message["hex"]), message["from"])
                # Not assertEqual on the frames: its difference of two long payloads takes minutes.
                self.assertEqual(error, message.get("error"))
                self.assertTrue(frames == [frame(entry) for entry in message["frames"]], f"{frames}"[:300])

    def test_encode(self):
        count = 0
        for message in MESSAGES:
            frames = message["frames"]
            if "error" in message or any(f["type"] == "skipped" or "raw_code" in f for f in frames):
                continue
            count += 1
            with self.subTest(message["name"]):
                encoded = b"".join(v2.encode(frame(entry)) for entry in frames)
                self.assertTrue(encoded == octets(message["hex"]), encoded[:100].hex())
        self.assertGreater(count, 30)

    def test_every_cut_of_a_good_message_is_truncated_or_ends_between_frames(self):
        for message in MESSAGES:
            whole = octets(message["hex"])
            if "error" in message or len(whole) > 300:
                continue
            with self.subTest(message["name"]):
                frames, _ = v2.decode(whole, message["from"])
                ends = 0
                for length in range(len(whole)):
                    some, error = v2.decode(whole[:length], message["from"])
                    self.assertEqual(some, frames[:len(some)])
                    self.assertIn(error, (None, "truncated"))
                    ends += error is None
                self.assertEqual(ends, len(frames))

    def test_the_session_in_the_document(self):
        page = (ROOT / "docs" / "protocol-v2.md").read_text(encoding="utf-8")
        sender, count = None, 0
        for mark, octets_, name, stream in re.findall(r"^([→←+]) ((?:[0-9a-f]{2,} )+) *([A-Z_]+)(?: (\d+))?", page, re.M):
            sender = {"→": "client", "←": "gateway"}.get(mark, sender)
            count += 1
            with self.subTest(octets_.strip()):
                frames, error = v2.decode(bytes.fromhex(octets_), sender)
                self.assertIsNone(error)
                self.assertEqual([(type(f).__name__.upper(), getattr(f, "stream", 0)) for f in frames],
                                 [(name.replace("_", ""), int(stream or 0))])
        self.assertEqual(count, len(re.findall("^[→←+] ", page, re.M)))

    def test_what_cannot_be_sent(self):
        for bad in (
            v2.Open(0, "bytes", ""), v2.Open(1, "words", ""), v2.Open(1, "bytes", "x" * 263), v2.Data(2**32, b""),
            v2.Data(1, bytes(65537)), v2.Datagram(1, bytes(65508)), v2.Reset(1, "no such code"),
            v2.Reset(1, "io", "x" * 256), v2.Reset(1, "io", "", 16), v2.Credit(1, 0), v2.Credit(1, 2**31),
            v2.Ping(bytes(7)), v2.GoAway("io", 2**32), v2.GoAway("io", -1), v2.Skipped(),
        ):
            with self.subTest(dataclasses.asdict(bad).get("stream"), frame=type(bad)), self.assertRaises(ValueError):
                v2.encode(bad)


if __name__ == "__main__":
    unittest.main()
