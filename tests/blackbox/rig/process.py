"""Servers of others that run as processes on a port of their own."""

import os
import socket
import subprocess

from .gateway import free_port
from .poll import eventually


class Process:
    """A server on a port of its own; `stop` and `start` as often as wanted. A subclass has `command`."""

    def __init__(self, log=None):
        self.log, self.port, self.process = log or os.devnull, free_port(), None
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        eventually(self._listens, 10, f"{type(self).__name__} listens")

    def _listens(self):
        assert self.process.poll() is None, f"{type(self).__name__} ended at its start:\n{open(self.log).read()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def stop(self):
        """Kills the process and those that it started, and with them every connection."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait(10)
