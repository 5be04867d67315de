"""Files behind URLs are read whole, and no larger than local ones."""

import http.server
import threading

import fsspec
import pytest

from exreid.data.metadata import read_table
from exreid.errors import ImageError, MetadataError
from exreid.storage import urls
from exreid.storage.urls import read_bytes


class _Chunked(http.server.BaseHTTPRequestHandler):
    """A server that tells no sizes, and whose /endless has no end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = [b"x" * 10] if self.path == "/short" else [b"x" * 1000] * 10**6
        try:
            for piece in [*pieces, b""]:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *unused):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Chunked) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_behind_a_url_is_bounded_as_a_local_one_is(tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "MAX_FILE_BYTES", 10)
    memory = fsspec.filesystem("memory")
    for name, data in (("fits", b"x" * 10), ("empty", b""), ("large", b"x" * 11)):
        memory.pipe(f"/bounded/{name}", data)
        (tmp_path / name).write_bytes(data)
    for root in ("memory://bounded", str(tmp_path)):
        assert read_bytes(root, "fits") == b"x" * 10
        assert read_bytes(root, "empty") == b""
        with pytest.raises(ImageError, match="bytes"):
            read_bytes(root, "large")
    memory.pipe("/bounded/metadata.csv", b"path,unique_name\na.jpg,a\n")
    with pytest.raises(MetadataError, match="more than 10 bytes"):
        read_table("memory://bounded")
    memory.rm("/bounded", recursive=True)


def test_a_server_that_tells_no_size_is_read_up_to_the_limit(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_FILE_BYTES", 10**6)
    monkeypatch.setattr(urls, "PIECE_BYTES", 10**5)
    assert read_bytes(server, "short") == b"x" * 10
    with pytest.raises(ImageError, match="more than 1000000 bytes"):
        read_bytes(server, "endless")
