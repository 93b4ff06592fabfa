"""The clients without a server, or with one that refuses: one line, and exit status 2."""

from __future__ import annotations

import importlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

NOWHERE = {"rest_client": "http://127.0.0.1:9/v1/models/m", "grpc_client": "127.0.0.1:9"}


@pytest.mark.parametrize("name", ["rest_client", "grpc_client"])
@pytest.mark.parametrize(
    ("package", "words"), [("ftkeras.export", []), ("ftkeras.tasks.alignment", ["cat,dog"])]
)
def test_without_a_server_a_client_says_so_in_a_line(package, words, name, tmp_path, capsys):
    client = importlib.import_module(f"{package}.{name}")
    file = tmp_path / "a.png"
    file.write_bytes(b"a")
    model = ["m"] if name == "grpc_client" else []
    assert client.run([NOWHERE[name], *model, *words, str(file)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{name}.py: {NOWHERE[name]}: ") and told.count("\n") == 1
    assert "serve.sh starts" in told
    assert client.run([NOWHERE[name], *model, *words, str(tmp_path / "none.png")]) == 2
    told = capsys.readouterr().err
    assert "none.png" in told and told.count("\n") == 1
    assert client.run([NOWHERE[name]]) == 2
    assert f"python {name}.py" in capsys.readouterr().err  # its own docstring
    assert "sys.exit(run(sys.argv[1:]))" in Path(client.__file__).read_text()


def test_what_a_server_refuses_is_told_in_a_line(tmp_path, capsys):
    from ftkeras.export import rest_client

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b'{"error": "no such\\nmodel"}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "a.png").write_bytes(b"a")
    url = f"http://127.0.0.1:{server.server_port}/v1/models/m"
    assert rest_client.run([url, str(tmp_path / "a.png")]) == 2
    server.shutdown()
    server.server_close()
    assert "the server refuses it (404): " in capsys.readouterr().err
