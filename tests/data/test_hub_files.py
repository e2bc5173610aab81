"""Data sets of the hub, by `hf://` and by their id: the clips are those of the local files. No network but localhost."""

import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest
from huggingface_hub import constants

from cvmae.config import ConfigError
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.pipeline import make_loader
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.sources import make_source
from cvmae.storage import client
from cvmae.storage.remote_path import RemotePath
from tests.data import videos
from tests.data.batches import assert_same_batches
from tests.data.configs import small_config
from tests.requirements import missing

SHA = "0123456789abcdef0123456789abcdef01234567"
COUNT = 5


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub's HTTP that reading a data set uses; the server's `folder` holds the files of user/set."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        parts = urllib.parse.unquote(path).strip("/").removeprefix("api/").split("/")
        self.server.asked.append((self.command, "/".join(parts), self.headers.get("Range", "")))
        if self.server.status:
            self.answer(self.server.status.pop(0), {})
        elif parts[:3] != ["datasets", "user", "set"]:
            self.answer(401, {}, code="RepoNotFound")
        elif len(parts) == 3 or parts[3] == "revision":
            self.answer(200, {"id": "user/set", "sha": SHA, "siblings": []})
        elif parts[3] == "tree":
            below = self.server.folder / "/".join(parts[5:])
            inside = sorted(below.rglob("*") if "recursive=true" in query.lower() else below.glob("*"))
            self.answer(200, [self.described(file) for file in inside]) if below.is_dir() else self.missing()
        elif parts[3] == "resolve":
            file = self.server.folder / "/".join(parts[5:])
            self.send_part(file) if file.is_file() else self.missing()
        else:
            self.missing()

    def do_POST(self):  # paths-info
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        there = [self.server.folder / path for path in form["paths"]]
        self.answer(200, [self.described(path) for path in there if path.exists()])

    def described(self, path):
        name = path.relative_to(self.server.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": SHA}
        content = path.read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send_part(self, file):
        content, size = file.read_bytes(), file.stat().st_size
        start, _, end = self.headers.get("Range", f"bytes=0-{size - 1}").removeprefix("bytes=").partition("-")
        part = content[int(start) : int(end) + 1]
        self.send_response(206)
        fields = {"Content-Length": len(part), "Content-Range": f"bytes {start}-{end}/{size}"}
        for key, value in (fields | {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}).items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def missing(self):
        self.answer(404, {}, code="EntryNotFound")

    def answer(self, status, value, code=""):
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", "Content-Length": len(body), "X-Error-Code": code}.items():
            self.send_header(key, str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "a b").mkdir()
    rows = ["path,label,split"]
    for number in range(COUNT):
        path = f"{'a b/' if number % 2 else ''}clip{number}.mp4"
        videos.write_video(folder / path, 12, first=10 * number)
        rows.append(f"{path},{('run', 'jump')[number % 2]},train")
    (folder / "list.csv").write_text("\n".join(rows))
    write_shards(f"{folder}/list.csv", str(folder / "shards"), shard_bytes=1)
    return folder


@pytest.fixture
def hub(files, monkeypatch):
    """Gives the server; the data set is at hf://datasets/user/set."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.folder, server.asked, server.status = files, [], []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):  # what HF_ENDPOINT sets in a new process
            monkeypatch.setattr(constants, name, getattr(constants, name).replace(constants._HF_DEFAULT_ENDPOINT, address))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(client, "BACKOFF_S", 0.01)
        client._filesystem.cache_clear()
        yield server
        client._filesystem.cache_clear()
        server.shutdown()


SET = "hf://datasets/user/set"


def batches(**data):
    c = small_config(data__source=data["source"]).unlock()
    c.data.update(data)
    with make_loader(c.lock(), make_source(c.data, "train")) as loader:
        return [next(loader) for _ in range(2)]


def test_clips_of_a_manifest_on_the_hub_are_those_of_local_files(hub, files, tmp_path):
    local = batches(source="files", manifest=f"{files}/list.csv")
    assert_same_batches(local, batches(source="files", manifest=f"{SET}/list.csv"))
    assert_same_batches(
        local, batches(source="files", manifest=f"{SET}/list.csv", cache_dir=str(tmp_path / "cache"), cache_gb=1.0)
    )
    assert len(list((tmp_path / "cache").rglob("*.copy"))) > 0
    (tmp_path / "list.csv").write_text((files / "list.csv").read_text())
    assert_same_batches(local, batches(source="files", manifest=f"{tmp_path}/list.csv", root=SET))


def test_clips_of_shards_on_the_hub_are_those_of_local_shards(hub, files):
    pattern = "shards/{split}-*.tar"
    local = batches(source="webdataset", webdataset={"shards": f"{files}/{pattern}"})
    hub.asked.clear()
    assert_same_batches(local, batches(source="webdataset", webdataset={"shards": f"{SET}/{pattern}"}))
    parts = [part.removeprefix("bytes=").partition("-") for _, path, part in hub.asked if path.endswith(".tar")]
    sizes = {int(end) - int(start) + 1 for start, _, end in parts}
    assert sizes <= {512} | {file.stat().st_size for file in files.rglob("*.mp4")}  # a header, and members: not all that follows


def test_a_folder_on_the_hub_stands_for_a_manifest(hub):
    entries = read_manifest(SET, "any").entries
    assert sorted(entry.path for entry in entries) == sorted(
        f"{SET}/{'a b/' if number % 2 else ''}clip{number}.mp4" for number in range(COUNT)
    )


def test_what_cannot_be_read_is_one_line(hub, tmp_path):
    with pytest.raises(ManifestError, match="hf://datasets/user/set/none.csv.*no such object"):
        read_manifest(f"{SET}/none.csv", "any")
    other = "hf://datasets/user/other/list.csv"
    with pytest.raises(
        ConfigError, match=f"{other}: the hub has no such repository .check the name., or it is private: .*hf auth login"
    ) as missing:
        read_manifest(other, "any")
    assert "\n" not in str(missing.value)


def test_an_answer_that_fails_is_asked_for_again(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.status[:] = [503]
    assert RemotePath(f"{SET}/list.csv").read_text().startswith("path,label")
    hub.status[:] = [503] * 50
    with pytest.raises(OSError, match="503.*after 3 attempts") as error:
        RemotePath(f"{SET}/clip0.mp4").read_range(0, 4)
    assert error.value.filename == f"{SET}/clip0.mp4"


def test_a_hub_that_is_not_there_is_an_error_of_reading(hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    RemotePath(f"{SET}/clip0.mp4").status()
    hub.shutdown()
    hub.server_close()
    with pytest.raises(OSError, match="after 3 attempts") as error:
        RemotePath(f"{SET}/clip0.mp4").read_range(0, 4)
    assert error.value.filename == f"{SET}/clip0.mp4"


def test_a_data_set_of_the_hub_is_read_by_its_id(hub, files, tmp_path, monkeypatch):
    try:
        import datasets
    except ImportError as error:
        missing("hf", str(error))
    contents = [path.read_bytes() for path in sorted(files.rglob("*.mp4"))]
    labels = [("run", "jump")[number % 2] for number in range(COUNT)]
    hub.folder = tmp_path / "set"
    (hub.folder / "data").mkdir(parents=True)
    for split, count in (("train", COUNT), ("val", 1)):
        rows = datasets.Dataset.from_dict({"video": contents[:count], "label": labels[:count]})
        rows.to_parquet(hub.folder / f"data/{split}-00000-of-00001.parquet")
    # What HF_ENDPOINT and HF_HOME set in a new process.
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", constants.ENDPOINT)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    for place in (
        "datasets.config.HF_DATASETS_CACHE",
        "datasets.config.HF_MODULES_CACHE",
        "huggingface_hub.constants.HF_HUB_CACHE",
    ):
        monkeypatch.setattr(place, str(tmp_path / "home"))
    c = small_config(data__source="hf").unlock()
    c.data.hf = {"path": "user/set", "config": "", "video": "video", "label": "label"}
    source = make_source(c.data, "train")
    records = [source[index] for index in range(len(source))]
    assert [record.payload for record in records] == contents
    assert [source.class_names[record.label] for record in records] == labels
