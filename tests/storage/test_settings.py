"""Stores that cannot be reached, and settings that are wrong: one line that says so, whichever file was to be read."""

import os

import pytest

from cvmae.config import ConfigError
from cvmae.data.class_file import read_classes
from cvmae.data.manifest import read_manifest
from cvmae.data.prepare.text import read_text
from cvmae.data.tar_shards import load_index
from cvmae.evaluation.feature_identity import digest_of
from cvmae.interop.saved_run import read_workdir
from cvmae.storage import client, path
from cvmae.storage.client import SetupError, UnavailableError
from cvmae.tasks.cooldown import _resolve
from cvmae.workdir import Workdir
from cvmae.workdir.saved_steps import try_reading
from tests.commands import run
from tests.requirements import missing
from tests.servers import free_port

S3 = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def settings(monkeypatch):
    """Sets environment variables, with clients of their own; those of an account are not there."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "STORAGE_", "FSSPEC_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    client._filesystem.cache_clear()

    def set_all(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    yield set_all
    client._filesystem.cache_clear()


WRONG = {
    "s3": [
        ("AWS_ENDPOINT_URL", "127.0.0.1:5917", "AWS_ENDPOINT_URL=127.0.0.1:5917 is no URL: give http://HOST:PORT"),
        ("AWS_ENDPOINT_URL_S3", "http://host:port", "AWS_ENDPOINT_URL_S3=http://host:port is no URL: give http://HOST:PORT"),
        ("AWS_CA_BUNDLE", "/nosuch", "AWS_CA_BUNDLE=/nosuch is not there: give a file of certificates, or unset it"),
        (
            "AWS_PROFILE",
            "nosuch",
            "s3:// cannot be used (The config profile (nosuch) could not be found): check AWS_ENDPOINT_URL",
        ),
        ("AWS_DEFAULT_REGION", "a region", "s3:// cannot be used (Provided region_name 'a region' doesn't match"),
        ("AWS_RETRY_MODE", "never", 's3:// cannot be used (Invalid value provided to "mode": "never"'),
        ("AWS_CONFIG_FILE", __file__, "s3:// cannot be used (Unable to parse config file: "),
    ],
    "gs": [
        ("STORAGE_EMULATOR_HOST", "localhost:port", "STORAGE_EMULATOR_HOST=localhost:port is no URL: give http://HOST:PORT"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/nosuch", "GOOGLE_APPLICATION_CREDENTIALS=/nosuch cannot be used (No such file"),
        ("GOOGLE_APPLICATION_CREDENTIALS", __file__, "is not a valid json file.): give the JSON file of a service account"),
    ],
    "hf": [("HF_ENDPOINT", "127.0.0.1:5", "HF_ENDPOINT=127.0.0.1:5 is no URL: give http://HOST:PORT")],
}


@pytest.mark.parametrize(
    "scheme, name, value, message",
    [(scheme, *row) for scheme, rows in WRONG.items() for row in rows],
    ids=lambda text: text[-20:],
)
def test_a_wrong_setting_is_one_line(settings, scheme, name, value, message):
    package = client.LIBRARIES[scheme][0]
    if not client.importlib.util.find_spec(package):
        missing(package, "pip install -e '.[gcs,s3,hub]'")
    settings(**S3 | {name: value})
    with pytest.raises(SetupError) as refused:
        path.as_path(f"{scheme}://b/x/k").read_bytes()
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("emulator", ["localhost:{}", "http://127.0.0.1:{}"])
def test_an_emulator_needs_no_scheme(settings, emulator):
    pytest.importorskip("gcsfs")
    settings(STORAGE_EMULATOR_HOST=emulator.format(free_port()), GOOGLE_APPLICATION_CREDENTIALS="/nosuch")
    with pytest.raises(UnavailableError, match="^gs://b/k: Cannot connect .*; check the network or STORAGE_EMULATOR_HOST$"):
        path.as_path("gs://b/k").read_bytes()


def test_the_command_ends_with_one_line(tmp_path):
    pytest.importorskip("s3fs")
    commands = {
        "cvmae.main": ("--config=configs/ssv2.py:runlocal", "--workdir=s3://b/x"),
        "cvmae.data.prepare": ("--dataset=folder", "--videos=s3://b/x", f"--out={tmp_path}/o"),
    }
    for program, words in commands.items():
        ended = run(*words, program=("-m", program), env=S3 | {"AWS_ENDPOINT_URL": "127.0.0.1:5917"})
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.splitlines()[-1] == "error: AWS_ENDPOINT_URL=127.0.0.1:5917 is no URL: give http://HOST:PORT"


READERS = {
    "the folder": Workdir.create,
    "config": lambda folder: Workdir(folder).read_config(),
    "report": lambda folder: Workdir(folder).read_report(),
    "starts": lambda folder: Workdir(folder).read_starts(),
    "trackers": lambda folder: Workdir(folder).read_trackers(),
    "a run to start from": read_workdir,
    "a run to cool down": _resolve,
    "checkpoint": lambda folder: try_reading((path.as_path(folder) / "checkpoints/1/x").read_bytes, path.as_path(folder), "x"),
    "manifest": lambda folder: read_manifest(f"{folder}/list.csv", "train"),
    "classes": lambda folder: read_classes(f"{folder}/classes.csv"),
    "shard": lambda folder: load_index(f"{folder}/a.tar"),
    "features": digest_of,
    "labels of a data set": lambda folder: read_text(f"{folder}/labels.csv", "number,name"),
}


@pytest.mark.parametrize("read", READERS)
def test_readers_of_files_leave_the_remedy_to_the_store(settings, read):
    pytest.importorskip("s3fs")
    settings(**S3, AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    for reason in (
        r"Could not connect to the endpoint URL: \S+; check the network or AWS_ENDPOINT_URL$",
        r"no credentials for s3://: set AWS_ACCESS_KEY_ID .* reads public buckets without$",
    ):
        with pytest.raises((ConfigError, UnavailableError), match=f"^(--workdir=)?s3://b/x\\S*: {reason}"):
            value = READERS[read]("s3://b/x")
            raise ConfigError(value[-1]) if read == "a run to cool down" else AssertionError(value)
        settings(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
        client._filesystem.cache_clear()
