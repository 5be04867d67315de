"""What Ray's native side writes stays away, and comes back with --verbose."""

import os

import pytest

from exreid.distributed.session import _native_stderr


@pytest.mark.parametrize("shown", [False, True])
def test_native_messages_are_dropped_while_ray_starts_and_only_then(capfd, shown):
    with _native_stderr(shown):
        os.write(2, b"I 1234 logging.cc: chatter\n")
    os.write(2, b"an error of ours\n")
    seen = capfd.readouterr().err
    assert ("chatter" in seen) is shown
    assert "an error of ours" in seen


def test_an_error_meanwhile_leaves_stderr_as_it_was(capfd):
    with pytest.raises(ConnectionError), _native_stderr(False):
        raise ConnectionError
    os.write(2, b"back\n")
    assert capfd.readouterr().err == "back\n"
