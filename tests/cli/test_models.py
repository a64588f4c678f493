"""Models are listed and fetched: resumed, checked, found afterwards; offline it says what to do."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from ovsslib.cli.main import main
from ovsslib.clip import catalogue
from ovsslib.clip.catalogue import CATALOGUE, get_model, list_models
from ovsslib.clip.loading import cached_pretrained
from ovsslib.errors import ModelError

CONTENT = bytes(range(256)) * 40_000  # 10 MB


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list] = []

    def do_GET(self):
        begin = self.headers.get("Range")
        self.asked.append(begin)
        start = int(begin.removeprefix("bytes=").rstrip("-")) if begin else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        Handler.asked = []
        monkeypatch.setitem(
            catalogue.OPENAI_SHA256, "ViT-B-16.pt", hashlib.sha256(CONTENT).hexdigest()
        )
        yield f"http://127.0.0.1:{running.server_port}/ViT-B-16.pt"
        running.shutdown()
        thread.join()


def test_a_broken_transfer_goes_on_and_the_file_is_found(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    folder = tmp_path / ".cache" / "clip"
    folder.mkdir(parents=True)
    (folder / "ViT-B-16.pt.partial").write_bytes(CONTENT[:1_000_000])
    told = []
    file = get_model(
        "openai-vitb16", server, progress=lambda have, total: told.append((have, total))
    )
    assert file.read_bytes() == CONTENT and Handler.asked == ["bytes=1000000-"]
    assert told[-1] == (len(CONTENT), len(CONTENT)) and not list(folder.glob("*.partial"))
    assert cached_pretrained("ViT-B-16-quickgelu", "openai") is not None
    assert get_model("openai-vitb16", server) == file and len(Handler.asked) == 1


def test_a_wrong_hash_is_refused_and_removed(server, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.OPENAI_SHA256, "ViT-B-16.pt", "0" * 64)
    with pytest.raises(ModelError, match="has SHA-256"):
        get_model("openai-vitb16", server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_offline_it_says_where_the_file_must_go(tmp_path):
    with pytest.raises(ModelError, match="cannot be fetched.*put it at .*ViT-B-16.pt"):
        get_model("openai-vitb16", "http://127.0.0.1:1/none", tmp_path)
    with pytest.raises(ModelError, match="did you mean 'openai-vitb16'"):
        get_model("openai-vitb17")


def test_every_address_of_the_catalogue_has_a_hash():
    for one in CATALOGUE.values():
        address = catalogue.get_pretrained_cfg(one.model, one.tag)["url"]
        assert len(catalogue._hash_in(address)) == 64


def test_the_list(capsys):
    assert {one.name for one in list_models()} >= {"sceneclip", "openai-vitb16"}
    with pytest.raises(SystemExit) as ended:
        main(["models"])
    assert ended.value.code == 0 and "openai-vitb16" in capsys.readouterr().out
