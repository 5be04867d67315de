"""Commands in processes forked by one that has imported all of exreid.

Such a command ends seconds earlier, and a kill meets its work, not its imports. Runs over Ray are
not forked: what Ray starts is found by its environment, which a fork does not change.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path


class Forked:
    """A command in a session of its own, to be used like a `subprocess.Popen`."""

    def __init__(self, server, arguments, folder, environment):
        self.server, self.returncode = server, None
        handle, self.said = tempfile.mkstemp()
        os.close(handle)  # not in the folder, whose disk may be full
        order = [list(map(str, arguments)), str(folder), self.said, environment]
        server.stdin.write(json.dumps(order).encode() + b"\n")
        self.pid = int(server.stdout.readline())

    def poll(self):
        """The exit code; None before the end."""
        if self.returncode is None and select.select([self.server.stdout], [], [], 0)[0]:
            self.returncode = int(self.server.stdout.readline())
        return self.returncode

    def wait(self, timeout):
        """The exit code; subprocess.TimeoutExpired after so many seconds."""
        if self.returncode is None:
            select.select([self.server.stdout], [], [], timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        return self.returncode

    def communicate(self, timeout=60):
        """(None, what it wrote to stderr) at its end."""
        self.wait(timeout)
        said = Path(self.said)
        text = said.read_text(errors="replace")
        said.unlink()
        return None, text

    def kill(self):
        """End it at once, and wait until it has."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it is over, and that is not told yet
                os.kill(self.pid, signal.SIGKILL)
            self.wait(60)


def start_server(environment):
    """The process that forks, one command at a time; it ends with this one."""
    words = [sys.executable, "-m", "tests.chaos.forked"]
    pipe = subprocess.PIPE
    # Without buffers, since a line in one is not seen by `select`.
    server = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, bufsize=0)
    assert server.stdout.readline() == b"ready\n"
    return server


def _serve():
    import exreid

    for module in pkgutil.walk_packages(exreid.__path__, "exreid."):
        if not module.name.startswith("exreid.distributed."):
            importlib.import_module(module.name)
    gc.freeze()
    os.write(1, b"ready\n")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(*json.loads(line))
        os.write(1, b"%d\n" % pid)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _run(arguments, folder, said, environment):
    from exreid.cli import main

    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDWR)
    for file, number in ((nothing, 0), (nothing, 1), (os.open(said, os.O_WRONLY), 2)):
        os.dup2(file, number)
    code = 1
    try:
        code = main(arguments)
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - told, as Python does
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
