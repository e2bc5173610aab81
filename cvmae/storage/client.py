"""Connections to object stores by fsspec: one for each scheme and process, one rule of retries, and errors as one line.

Errors of reading and writing are OSErrors with a number, a text and the path, as those of local files are; what the user has to
set up (a package, credentials) is a SetupError. The libraries' own retries are turned off where they can be, as they would multiply with these.
"""

import asyncio
import errno
import functools
import http.client
import importlib.util
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cvmae.config import ConfigError
from cvmae.storage import counters
from cvmae.storage.settings import SetupError, check_settings

R = TypeVar("R")
ATTEMPTS = 5
HUB_ATTEMPTS = 3  # the hub's library repeats most requests by itself, five times in half a minute, and cannot be told not to
BACKOFF_S = 0.25  # before the second attempt, doubled before each later one
TIMEOUT_S = 30.0  # without a byte from the server

# The package that speaks a scheme, the extra that brings it, and what to do without credentials.
LIBRARIES = {
    "gs": ("gcsfs", "gcs"),
    "s3": ("s3fs", "s3"),
    "hf": ("huggingface_hub", "hub"),
}
SCHEMES = ", ".join(f"{name}://" for name in LIBRARIES)  # for messages
WRITABLE = ("gs", "s3")  # schemes of buckets that files can be written to
CREDENTIALS = {
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; FSSPEC_S3='{\"anon\": true}' reads public buckets without",
    "hf": "run `hf auth login`, or set HF_TOKEN",
}
# What to look at where a store does not answer, or its client cannot be made.
ENDPOINTS = {"gs": "STORAGE_EMULATOR_HOST", "s3": "AWS_ENDPOINT_URL", "hf": "HF_ENDPOINT"}
_SETTINGS = {
    "gs": "STORAGE_EMULATOR_HOST, GOOGLE_APPLICATION_CREDENTIALS and FSSPEC_GCS",
    "s3": "AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, AWS_CONFIG_FILE and FSSPEC_S3",
    "hf": "HF_ENDPOINT and the other variables HF_",
}
_TRANSIENT_STATUS = {408, 409, 429, 500, 502, 503, 504}
_TRANSIENT_ERRNO = {errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EPIPE, errno.ECONNREFUSED}
_NETWORK_PACKAGES = {"aiohttp", "aiobotocore", "botocore", "requests", "urllib3", "httpx", "httpcore", "httpx2", "httpcore2"}
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


class UnavailableError(OSError):
    """A store gave no answer, or one of an error; `strerror` says what to do, so that who reads a file adds no remedy of its own."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def scheme_of(path: str) -> str:
    """Returns the scheme of `s3://bucket/key`, lower case; "" for a path without one."""
    scheme, separator, _ = path.partition("://")
    return scheme.lower() if separator and scheme.isalnum() else ""


def check_scheme(path: str, name: str = "", is_written: bool = False) -> None:
    """Raises SetupError where the scheme of a path is unknown, or its package is not installed; nothing for a local path.

    Args:
      path: as it was given.
      name: of the field or flag that has it, before the path in the message, such as `--out=`.
      is_written: True where files are written there.
    """
    scheme = scheme_of(path)
    if not scheme:
        return
    if scheme not in (WRITABLE if is_written else LIBRARIES):
        fault = "cannot be written to" if scheme in LIBRARIES else "is not supported"
        known = ", ".join(f"{known}://" for known in WRITABLE) if is_written else SCHEMES
        raise SetupError(f"{name}{path}: {scheme}:// {fault}; give a local path, or one that begins with {known}")
    package, extra = LIBRARIES[scheme]
    if importlib.util.find_spec(package) is None:
        raise SetupError(f"{name}{path}: {scheme}:// needs the package {package}: pip install 'crossvideomae[{extra}]'")


@functools.cache
def _filesystem(scheme: str, process: int):
    """Makes the client of a scheme; a forked process has its own, as connections and event loops do not survive a fork."""
    del process
    _mute()
    check_settings(scheme)
    try:
        return _make(scheme)
    except Exception as error:
        # Libraries raise errors of all kinds for a setting that is wrong. Who asks for keys may have lost a connection.
        if "Retrieval" in type(error).__name__ or isinstance(error, TimeoutError | ConnectionError):
            raise
        if _lacks_credentials(error) and "Profile" not in type(error).__name__:
            raise
        raise SetupError(f"{scheme}:// cannot be used ({_one_line(error)}): check {_SETTINGS[scheme]}") from error


def _make(scheme: str):
    fresh: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}  # another process may have written
    if scheme == "s3":
        from s3fs import S3FileSystem

        config = {"retries": {"max_attempts": 0}, "read_timeout": TIMEOUT_S, "connect_timeout": 10, "max_pool_connections": 64}
        filesystem = S3FileSystem(config_kwargs=config, **fresh)
        filesystem.retries = 1
        filesystem.connect()  # only makes the client: what is wrong in a setting shows here, and not in the first request
        return filesystem
    if scheme == "gs":
        # It logs its settings where it is imported, and errors, with tracebacks, that it also raises.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        # Not the class that asks the kind of every bucket over gRPC, which emulators and proxies do not speak.
        from gcsfs.core import GCSFileSystem

        class Client(GCSFileSystem):
            """GCS without retries of its own."""

            _request = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

        token = {"token": "anon"} if os.environ.get("STORAGE_EMULATOR_HOST") else {}
        return Client(requests_timeout=TIMEOUT_S, **token, **fresh)
    from huggingface_hub import HfFileSystem

    class Ranges(HfFileSystem):
        """The hub without the 5 MB that it would read ahead of every range."""

        def cat_file(self, path, start=None, end=None, **options):
            return super().cat_file(path, start, end, **({} if end is None else {"cache_type": "none"}) | options)

    return Ranges(**fresh)


def _mute() -> None:
    """Mutes what the libraries log on the way: where they found an endpoint and keys, and tasks that failed with a request."""
    for name in ("botocore", "aiobotocore"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(_is_not_of_network)  # the same function is added once


def _is_not_of_network(record: logging.LogRecord) -> bool:
    """Returns False for the traceback of a lost connection from the task that sent the body: the request itself raises it too."""
    error = record.exc_info and record.exc_info[1]
    lost = isinstance(error, Exception) and type(error).__module__.partition(".")[0] in _NETWORK_PACKAGES
    return not (lost and record.getMessage().startswith("Task exception was never retrieved"))


def filesystem(path: str):
    """Returns the fsspec file system of a path with a scheme. Raises: SetupError."""
    check_scheme(path)
    return _filesystem(scheme_of(path), os.getpid())


def call(path: str, operation: Callable[[Any], R], *, attempts: int = 0) -> R:
    """Returns `operation(file system)`, called again after errors that may pass, with pauses that double.

    Args:
      path: with a scheme, for the file system and for messages.
      operation: may be called several times.
      attempts: 0 for those of the scheme.

    Raises:
      SetupError: a package or credentials are missing.
      OSError: it failed otherwise; FileNotFoundError, FileExistsError and PermissionError say so.
    """
    attempts = attempts or (HUB_ATTEMPTS if scheme_of(path) == "hf" else ATTEMPTS)
    for attempt in range(attempts):
        try:
            return operation(filesystem(path))
        except Exception as error:
            if isinstance(error, ConfigError) or not is_error_of_storage(error):
                raise
            if attempt == attempts - 1 or not is_transient(error):
                raise translate(error, path, attempt + 1) from error
        counters.add(retries=1)
        # A share of chance, so that many processes do not come back at the same moment.
        time.sleep(BACKOFF_S * 2**attempt * (0.5 + random.random()))
    raise AssertionError("not reached")


def is_error_of_storage(error: Exception) -> bool:
    """Returns True for an error of a store or the network, False for one of this program."""
    package = type(error).__module__.partition(".")[0]
    known = (OSError, asyncio.TimeoutError, http.client.HTTPException)
    return isinstance(error, known) or package in _NETWORK_PACKAGES | {"gcsfs", "google", "s3fs", "huggingface_hub", "fsspec"}


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status that an error came of; None if it is not known."""
    if type(error).__module__ == "aiohttp.http_exceptions":  # the 400 of an answer that was cut off is aiohttp's own
        return None
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = getattr(error, "code", None) or getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(code, int | str) and str(code).isdigit():
        return int(code)
    cause = error.__cause__
    return status_of(cause) if cause is not None else None


def is_transient(error: BaseException) -> bool:
    """Returns True for an error that may be over soon: a busy server, a timeout, a lost connection."""
    if isinstance(error, _PERMANENT) or _lacks_credentials(error):
        return False
    status = status_of(error)
    if status is not None and status >= 400:
        return status in _TRANSIENT_STATUS
    if isinstance(error, TimeoutError | ConnectionError | asyncio.TimeoutError | http.client.HTTPException):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT_ERRNO
    name, package = type(error).__name__, type(error).__module__.partition(".")[0]
    return package in _NETWORK_PACKAGES and "Validation" not in name


def _lacks_credentials(error: BaseException) -> bool:
    """Returns True where a request could not be signed, or was not signed and had to be."""
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"):
        return True
    if status_of(error) == 401 or "Anonymous caller" in str(error):
        return True
    return error.__cause__ is not None and _lacks_credentials(error.__cause__)


def translate(error: Exception, path: str, attempts: int = 1) -> Exception:
    """Returns an error of a library as a SetupError, or as an OSError with a number, one line and the path."""
    scheme = scheme_of(path)
    if _lacks_credentials(error):
        what = (
            "the hub has no such repository (check the name), or it is private"
            if scheme == "hf"
            else f"no credentials for {scheme}://"
        )
        return SetupError(f"{path}: {what}: {CREDENTIALS[scheme]}")
    for kind, number, text in (
        (FileNotFoundError, errno.ENOENT, "no such object or bucket"),
        (FileExistsError, errno.EEXIST, "it exists already"),
        (PermissionError, errno.EACCES, f"access is denied; {CREDENTIALS.get(scheme, '')}"),
        (IsADirectoryError, errno.EISDIR, "it is a folder"),
    ):
        if isinstance(error, kind):
            return kind(number, text, path)
    status = status_of(error)
    if status == 403 or "Forbidden" in str(error):
        return PermissionError(errno.EACCES, f"access is denied; {CREDENTIALS.get(scheme, '')}", path)
    if status in (404, 412):
        return translate(FileNotFoundError() if status == 404 else FileExistsError(), path)
    reason = _one_line(error)
    if reason == str(status):
        reason = f"HTTP status {status}"
    tried = f", after {attempts} attempts" if attempts > 1 else ""
    remedy = (
        "give the command again later" if status in _TRANSIENT_STATUS else f"check the network or {ENDPOINTS.get(scheme, scheme)}"
    )
    return UnavailableError(errno.EIO, f"{reason}{tried}; {remedy}", path)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].strip(", ") or type(error).__name__


def reason_of_store(error: BaseException) -> str:
    """Returns why a store did not give a file, with what to do about it, where an error is one of these; else ""."""
    if isinstance(error, SetupError):
        return str(error)
    if not isinstance(error, UnavailableError | PermissionError):
        return ""
    is_of_store = isinstance(error, UnavailableError) or scheme_of(str(error.filename or "")) in LIBRARIES
    return f"{error.strerror}" if is_of_store else ""


def raise_of_store(error: BaseException) -> None:
    """Raises SetupError where a store did not give a file, see `reason_of_store`; does nothing for any other error.

    Who reads a file calls it first with an error that it met: its own remedy is for a file that is not there or holds something else.
    """
    if isinstance(error, SetupError):
        raise error
    if isinstance(error, OSError) and (reason := reason_of_store(error)):
        raise SetupError(f"{error.filename}: {reason}") from error
