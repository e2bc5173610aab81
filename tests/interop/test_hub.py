"""Weights by hub id: which texts are ids, which files are downloaded, and the errors; no network but localhost."""

import hashlib
import http.server
import json
import pathlib
import subprocess
import sys
import threading

import pytest
from huggingface_hub import constants

import cvmae
from cvmae.interop import hub
from cvmae.interop.pretrained import WeightsError
from tests.commands import ROOT

SHA = "0123456789abcdef0123456789abcdef01234567"
WITH_SAFETENSORS = ("model.safetensors", "config.json", "preprocessor_config.json", "processor_config.json", "cvmae.json")
NOT_NEEDED = ("README.md", "pytorch_model.bin", "tf_model.h5", "training_args.bin", "onnx/model.safetensors")
SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json")
PICKLED = ("config.json", "pytorch_model.bin", "README.md")


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's HTTP that `snapshot_download` uses; the server's `repositories` are names of files by id."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/")
        owner, name, what, revision, *rest = path.split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if not isinstance(files, tuple):
            self.answer(*files if files else (404, "RepoNotFound"))
        elif revision not in ("main", "v1", SHA):
            self.answer(404, "RevisionNotFound")
        elif what == "revision":
            self.answer(200, body=json.dumps({"id": f"{owner}/{name}", "sha": SHA}).encode())
        elif what == "tree":
            listed = [{"type": "file", "path": f, "size": len(f), "oid": hashlib.sha1(f.encode()).hexdigest()} for f in files]
            self.answer(200, body=json.dumps(listed).encode())
        else:
            file = "/".join(rest)
            self.server.asked.add(file)
            self.answer(200, body=file.encode())

    def answer(self, status: int, code: str = "", body: bytes = b""):
        self.send_response(status)
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        for key, value in {"X-Error-Code": code, "ETag": etag, "X-Repo-Commit": SHA, "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """The machine that runs the tests may be set to offline, or to a proxy, which has no business with localhost."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.repositories = {
            "some/model": WITH_SAFETENSORS + NOT_NEEDED,
            "some/sharded": ("model-1.safetensors", "model.safetensors.index.json", "video_preprocessor_config.json"),
            "some/exported": ("params.npz", "cvmae.json", "pytorch_model.bin"),
            "some/pickled": PICKLED,
            "some/pickled-shards": (*SHARDS, "training_args.bin"),
            "some/flax": ("flax_model.msgpack", "config.json"),
            "some/gated": [403, "GatedRepo"],
            "some/private": [401, "RepoNotFound"],
            "some/token": [401, ""],
            "some/forbidden": [403, ""],
            "some/broken": [500, ""],
        }
        server.asked = set()
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def files_of(folder: pathlib.Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def cached(cache: pathlib.Path, files, name: str = "models--some--model", revision: str = "main") -> pathlib.Path:
    """A cache folder as transformers leaves it, made by hand."""
    folder = cache / name / "snapshots" / SHA
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text(file)
    (cache / name / "refs").mkdir()
    (cache / name / "refs" / revision).write_text(SHA)
    return folder


def failure(hub_id: str, **where) -> str:
    """The message of the error, which is one line and names the id."""
    with pytest.raises(FileNotFoundError) as error:
        hub.fetch(hub_id, **where)
    message = str(error.value)
    assert "\n" not in message and hub_id.removeprefix("hf:").partition("@")[0] in message
    return message


@pytest.mark.parametrize(
    "text", ["MCG-NJU/videomae-base", "owner/name.v2@refs/pr/1", "a/b@v1.0", "hf:MCG-NJU/videomae-base@main", "hf:here/there"]
)
def test_hub_ids(text):
    assert hub.is_hub_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "here/there",
        "name",
        "",
        "./a/b",
        "../a",
        "/a/b",
        "a/b/c",
        "a/b/",
        "~/b",
        "a/b.pth",
        "a/b.safetensors",
        "a/model.npz",
        "a b/c",
    ],
)
def test_paths_and_files_are_no_hub_ids(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "there").mkdir(parents=True)
    assert not hub.is_hub_id(text)


@pytest.mark.parametrize("text", ["runs/nope", "./runs/nope", "runs/nope/checkpoints/3", "nothing", "runs/nope.pth"])
def test_a_path_in_an_existing_folder_is_no_hub_id(text, tmp_path, monkeypatch):
    """One line names the path and what to give; the hub is not asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", None)
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        FileNotFoundError, match=f"^no weights at {text}, which does not exist: give a workdir, a weights file"
    ) as error:
        cvmae.load(text)
    message = str(error.value)
    assert (
        "or a hub id owner/name" in message and "\n" not in message and ("hf:runs/nope for" in message) == (text == "runs/nope")
    )
    (tmp_path / "runs" / "nope").mkdir()
    assert hub.resolve("runs/nope") == "runs/nope" and hub.is_hub_id("hf:runs/nope")


def test_what_is_neither_a_path_nor_on_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    endpoint, fetch = server.address, hub.fetch
    monkeypatch.setattr(hub, "fetch", lambda hub_id: fetch(hub_id, cache_dir=tmp_path, endpoint=endpoint))
    start = "^no/where: no such path, and not a hub id that can be reached"
    with pytest.raises(FileNotFoundError, match=rf"{start} \(on the hub there is no such model.*\): give a workdir") as error:
        cvmae.load("no/where")
    assert "\n" not in str(error.value)
    endpoint = closed_port()
    with pytest.raises(FileNotFoundError, match=rf"{start} \(the hub could not be reached.*hub id owner/name$"):
        cvmae.load("no/where")
    with pytest.raises(FileNotFoundError, match="^no/where: the hub could not be reached"):
        cvmae.load("hf:no/where")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=rf"{start} \(hub ids need huggingface_hub: pip install .*\): give a workdir"):
        cvmae.load("no/where")


def test_what_the_hub_refuses_is_no_wrong_path(server, tmp_path, monkeypatch):
    fetch = hub.fetch
    monkeypatch.setattr(hub, "fetch", lambda hub_id: fetch(hub_id, cache_dir=tmp_path, endpoint=server.address))
    with pytest.raises(FileNotFoundError, match="^some/gated on the hub: its owner gives access on request"):
        cvmae.load("some/gated")


def test_a_path_object_may_be_asked_about(tmp_path):
    assert not hub.is_hub_id(tmp_path / "a") and hub.is_hub_id(pathlib.Path("some/model"))


@pytest.mark.parametrize("hub_id", ["some/model", "hf:some/model@v1", f"some/model@{SHA}"])
def test_only_what_is_needed_is_downloaded(server, tmp_path, hub_id):
    folder = hub.fetch(hub_id, cache_dir=tmp_path, endpoint=server.address)
    assert files_of(folder) == sorted(WITH_SAFETENSORS) == sorted(server.asked)
    assert (folder / "model.safetensors").read_text() == "model.safetensors"


@pytest.mark.parametrize(
    "name,files",
    [
        ("some/sharded", ["model-1.safetensors", "model.safetensors.index.json", "video_preprocessor_config.json"]),
        ("some/exported", ["cvmae.json", "params.npz"]),
        ("some/pickled", ["config.json", "pytorch_model.bin"]),
        ("some/pickled-shards", sorted(SHARDS)),
    ],
)
def test_pickled_weights_are_fetched_only_where_there_are_no_others(server, tmp_path, name, files):
    assert files_of(hub.fetch(name, cache_dir=tmp_path, endpoint=server.address)) == files


@pytest.mark.parametrize("name", ["some/model", "some/pickled"])
def test_without_a_network_what_was_fetched_before_is_used(server, tmp_path, name):
    before = hub.fetch(name, cache_dir=tmp_path, endpoint=server.address)
    server.asked.clear()
    server.repositories[name] = [503, ""]
    assert hub.fetch(name, cache_dir=tmp_path, endpoint=server.address) == before
    assert hub.fetch(name, cache_dir=tmp_path, endpoint=closed_port()) == before
    assert not server.asked


def closed_port() -> str:
    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as closed:
        return f"http://127.0.0.1:{closed.server_port}"


@pytest.mark.parametrize("files", [WITH_SAFETENSORS, PICKLED])
def test_without_a_network_a_cache_of_another_program_is_used(tmp_path, files):
    folder = cached(tmp_path, files)
    assert hub.fetch("some/model", cache_dir=tmp_path, endpoint=closed_port()) == folder


def test_offline_by_environment(tmp_path):
    folder = cached(tmp_path, WITH_SAFETENSORS)
    code = "import sys; from cvmae.interop import hub; [print(hub.fetch(name), flush=True) for name in sys.argv[1:]]"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, "some/model", f"hf:some/model@{SHA}", "some/other"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == [str(folder)] * 2, ran.stderr
    last = ran.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("cvmae.interop.hub.HubUnreachableError: some/other: the hub could not be reached")
        and str(tmp_path) in last
    )


def test_no_network_and_nothing_cached(tmp_path):
    cached(tmp_path, WITH_SAFETENSORS)
    for hub_id in ("some/other", "hf:some/model@v2"):
        message = failure(hub_id, cache_dir=tmp_path, endpoint=closed_port())
        assert "could not be reached" in message and str(tmp_path) in message
        assert "connect once, or give a local folder" in message and "refused" in message


def test_a_copy_made_in_part_is_refused_without_a_network(server, tmp_path):
    folder = hub.fetch("some/model", cache_dir=tmp_path, endpoint=server.address)
    (folder / "config.json").unlink()
    message = failure("some/model", cache_dir=tmp_path, endpoint=closed_port())
    assert "config.json" in message and "not all of it is in the cache" in message


@pytest.mark.parametrize(
    "hub_id,why",
    [
        ("some/unknown", "no such model, or it is private"),
        ("some/private", "no such model, or it is private"),
        ("some/gated", "gives access on request"),
        ("some/token", "refuses access to it (401)"),
        ("some/forbidden", "refuses access to it (403)"),
        ("some/broken", "could not be reached"),
        ("some/model@v7", "has no revision 'v7'"),
        ("some/flax", "no weights that are read"),
    ],
)
def test_what_the_hub_does_not_give(server, tmp_path, hub_id, why):
    assert why in failure(hub_id, cache_dir=tmp_path, endpoint=server.address)


@pytest.mark.parametrize("hub_id", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:../etc", "hf:a/b--c"])
def test_malformed_ids(hub_id, tmp_path):
    with pytest.raises(WeightsError, match="it is no hub id"):
        hub.fetch(hub_id, cache_dir=tmp_path, endpoint=closed_port())


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'crossvideomae\[hub\]'"):
        hub.fetch("some/model")
