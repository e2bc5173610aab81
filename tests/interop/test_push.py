"""Uploads to a stand-in of the hub on localhost: every byte arrives, nothing goes unasked, and refusals are one line."""

import base64
import http.server
import json
import sys
import threading
import time

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import _http

from cvmae.interop import __main__ as command
from cvmae.interop.native import write_archive
from tests.commands import run, run_own
from tests.interop.pretrained_models import pretrained, videomae

SHA = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"  # what the stand-in takes by the protocol of large files


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's HTTP that an upload uses; the server keeps `repositories`: {id: {file: bytes}}, and what was asked."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        if self.headers["Authorization"] != "Bearer good":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path.endswith(self.server.failing or "nothing"):
            return self.answer(500, {"error": "Internal Error"})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            return self.answer(
                200, {"errors": [] if yaml.safe_load(content.split("---")[1])["tags"] else ["no tags"], "warnings": []}
            )
        if self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "lfs" if n.endswith(LARGE) else "regular", "shouldIgnore": False} for n in names]
            return self.answer(200, {"files": modes})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.batch(json.loads(body)["objects"])
        return self.commit([json.loads(line) for line in body.splitlines()])

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "others":
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.server.repositories:
            return self.answer(409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"})
        self.server.repositories[name], self.server.private[name] = (
            {},
            wanted.get("private") or wanted.get("visibility") == "private",
        )
        return self.answer(200, {"url": f"{self.server.address}/{name}"})

    def batch(self, objects):
        there = [
            {**o, "actions": {"upload": {"href": f"{self.server.address}/large/{o['oid']}"}}}
            if o["oid"] not in self.server.large
            else o
            for o in objects
        ]
        return self.answer(200, {"transfer": "basic", "objects": there})

    def do_PUT(self):
        self.server.large[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {})

    def commit(self, lines):
        name = "/".join(self.path.split("/")[3:5])
        for line in (line for line in lines if line["key"] != "header"):
            value = line["value"]
            content = self.server.large[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
            self.server.repositories[name][value["path"]] = content
        self.answer(200, {"commitUrl": f"{self.server.address}/{name}/commit/{SHA}", "commitOid": SHA, "success": True})

    def do_GET(self):
        self.answer(200, {"id": "user/model", "sha": SHA, "siblings": []})

    def answer(self, status: int, value: dict):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.repositories, server.private, server.large, server.asked, server.failing = {}, {}, {}, [], ""
        server.address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose servers are not stood in for
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "good")
        wait = time.sleep
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: wait(min(seconds, 0.01)))  # between tries of what fails
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    write_archive(pretrained(videomae()), tmp_path / "export")
    return tmp_path / "export"


def push(folder, *words, to="hf:user/model") -> int:
    return run_own(command, "push", folder, f"--to={to}", *words)


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("private", [False, True])
def test_every_file_arrives(private, server, folder, capsys):
    (folder / "notes[1].txt").write_text("a name with a pattern's letters")
    assert push(folder, "--yes", *(["--private"] if private else [])) == 0
    assert server.repositories == {"user/model": contents(folder)} and bool(server.private["user/model"]) == private
    printed = capsys.readouterr().out
    assert f"to {server.address}/user/model, {'private: only you' if private else 'public: everyone sees it'}" in printed
    sizes = [line.split()[0] for line in printed.splitlines() if line.startswith("  ")]
    assert sizes == sorted(contents(folder)) and f"uploaded: {server.address}/user/model" in printed


def test_nothing_goes_unasked(server, folder, capsys, monkeypatch):
    assert push(folder, "--dry_run", "--yes") == 0 and "dry run: nothing was uploaded" in capsys.readouterr().out
    assert push(folder) == 2
    printed = capsys.readouterr()
    assert "params.safetensors" in printed.out and "not confirmed, nothing was uploaded" in printed.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert push(folder) == 2 and not server.asked
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert push(folder) == 0 and server.repositories["user/model"] == contents(folder)


def test_a_process_that_has_imported_nothing_of_the_hub(folder):
    environment = {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "good", "HF_ENDPOINT": "http://127.0.0.1:1"}
    done = run("push", str(folder), "--to=hf:user/model", "--yes", program=("-m", "cvmae.interop"), env=environment)
    assert done.returncode == 1 and "to http://127.0.0.1:1/user/model, public" in done.stdout
    assert "HF_HUB_OFFLINE is set, so the hub is not asked: unset it (nothing was uploaded)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_hidden_files_and_links_stay_here(server, folder, tmp_path, capsys):
    (folder / ".env").write_text("a secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("a secret")
    (tmp_path / "elsewhere.txt").write_text("a secret")
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert push(folder, "--yes") == 0
    assert set(server.repositories["user/model"]) == {"README.md", "cvmae.json", "params.safetensors"}
    assert capsys.readouterr().out.count("left out: hidden, or a link") == 3


def test_a_name_that_is_taken(server, folder, capsys):
    server.repositories["user/model"] = {"theirs.txt": b"kept"}
    assert push(folder, "--yes") == 1
    error = capsys.readouterr().err
    assert "user/model: the name is taken" in error and "--update" in error and error.count("\n") == 1
    assert server.repositories == {"user/model": {"theirs.txt": b"kept"}}
    assert push(folder, "--yes", "--update") == 0
    assert server.repositories["user/model"] == {"theirs.txt": b"kept"} | contents(folder)


def test_refusals_are_one_line(server, folder, capsys, monkeypatch):
    def refusal(*words, **where) -> str:
        assert push(folder, "--yes", *words, **where) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "has no permission to write there: give a token that may write for others" in refusal(to="hf:others/model")
    server.failing = "/preupload/main"
    assert "user/model is there, and not all of the files: the same command with --update uploads the rest" in refusal()
    server.failing = ""
    assert push(folder, "--yes", "--update") == 0 and server.repositories["user/model"] == contents(folder)
    capsys.readouterr()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "bad")
    assert "the hub does not know the token" in refusal(to="hf:user/other")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "no token for the hub: log in with `hf auth login`, or set HF_TOKEN" in refusal()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "good")
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as closed:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.server_port}")
    error = refusal()
    assert "could not be reached: check the network" in error and "nothing was uploaded" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal()
    assert "user/other" not in server.repositories


@pytest.mark.parametrize("to", ["user/model", "hf:model", "hf:a/b@v1", "s3://a/b", "hf:a/b/c"])
def test_places_that_are_none(to, folder, capsys):
    assert push(folder, "--yes", to=to) == 2
    assert f"--to={to} is no place on the hub: expected hf:USER/NAME" in capsys.readouterr().err


def test_folders_that_are_no_exports(tmp_path, capsys, monkeypatch):
    assert push(tmp_path / "absent") == 2 and "no folder" in capsys.readouterr().err
    (tmp_path / "README.md").write_text("# mine")
    assert push(tmp_path) == 2 and "is no export, it holds not both" in capsys.readouterr().err
    (tmp_path / "a.npz").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert push(tmp_path) == 2 and "pip install 'crossvideomae[hub]'" in capsys.readouterr().err
