"""One call of the command in this process, and what is wrong with how it ended."""

import contextlib
import io
import logging
import re
import traceback
from dataclasses import dataclass

# What only a program's inside says; no message for a user may hold it.
RAW = re.compile(
    r"Traceback \(most recent|\b[A-Z]\w*(?:Error|Exception|Rejected)\(|\bRejected\(|<class '"
    r"| object at 0x|'?NoneType'? |cannot reshape array|list index out of range"
    r"|unhashable|not subscriptable|has no attribute|unsupported operand"
)


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: int | None
    out: str
    err: str
    trace: str = ""

    @property
    def faults(self):
        """What must never be, whatever the input is."""
        if self.trace:
            return [f"traceback {where(self.trace)}"]
        found = [] if self.code in (0, 1, 2) else [f"exit code {self.code}"]
        raw = RAW.search(self.err + self.out)
        if raw:
            text = self.err + self.out
            found.append(
                f"raw words {' '.join(text[max(0, raw.start() - 60) : raw.end() + 60].split())!r}"
            )
        if self.code in (1, 2) and not (self.err + self.out).strip():
            found.append(f"exit code {self.code} without a word")
        return found


def call(*arguments):
    """``exreid ARGUMENTS`` in this process."""
    from exreid.cli import main

    return caught(lambda: main([str(word) for word in arguments]))


def caught(run):
    """How a function that returns an exit code ended, with all that it said."""
    for handler in list(logging.getLogger().handlers):
        logging.getLogger().removeHandler(handler)  # it holds the stderr of the call before
    out, err, code, trace = io.StringIO(), io.StringIO(), None, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
        except BaseException:  # noqa: BLE001 - each is a fault, and is reported as one
            trace = traceback.format_exc()
    return Outcome(code, out.getvalue(), err.getvalue(), trace)


def raised(run, allowed):
    """Faults of a reader that may raise only ``allowed``; and what it returned."""
    try:
        return [], run()
    except allowed as error:
        raw = RAW.search(str(error))
        return ([f"raw words {str(error)[:160]!r}"] if raw else []), None
    except Exception:  # noqa: BLE001 - as above
        return [f"traceback {where(traceback.format_exc())}"], None


def where(trace):
    """The error's first line, and the innermost place in exreid."""
    lines = trace.strip().splitlines()
    places = re.findall(r'File "[^"]*?/(exreid/[^"]+)", line (\d+)', trace)
    last = next(
        (
            line
            for line in reversed(lines)
            if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit|Bomb\w*)?\b", line)
        ),
        lines[-1],
    )
    place = ":".join(places[-1]) if places else "?"
    return f"{place} {last[:160]}"
