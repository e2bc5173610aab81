"""Checks of the environment variables that say where a store is and with which keys, which its library would name badly or not at all."""

import os
import urllib.parse
import warnings

from cvmae.config import ConfigError

# gcsfs itself puts http:// before STORAGE_EMULATOR_HOST.
_URLS = {
    "gs": ("FSSPEC_GCS_ENDPOINT_URL",),
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"),
    "hf": ("HF_ENDPOINT",),
}
_EMULATOR, _BUNDLE, _KEYS = "STORAGE_EMULATOR_HOST", "AWS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS"


class SetupError(ConfigError):
    """A package or credentials are missing, or a setting is wrong; the message is one line that says what to install or set."""


def check_settings(scheme: str) -> None:
    """Raises SetupError, one line, where an environment variable of a scheme has no value that its library can use."""
    for name in _URLS[scheme]:
        if (value := os.environ.get(name)) and not _is_url(value):
            raise SetupError(f"{name}={value} is no URL: give http://HOST:PORT")
    if scheme == "gs":
        emulator = os.environ.get(_EMULATOR, "")
        if emulator not in ("", "default") and not _is_url(emulator if "://" in emulator else f"http://{emulator}"):
            raise SetupError(f"{_EMULATOR}={emulator} is no URL: give http://HOST:PORT")
        if not emulator:
            _check_google_keys()
    bundle = os.environ.get(_BUNDLE)
    if scheme == "s3" and bundle and not os.path.exists(bundle):
        raise SetupError(f"{_BUNDLE}={bundle} is not there: give a file of certificates, or unset it")


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, and of brackets
        return False


def _check_google_keys() -> None:
    """Raises SetupError for a file of keys that Google's library cannot read: gcsfs would ask without, and after a long time."""
    file = os.environ.get(_KEYS)
    if not file:
        return
    import google.auth

    try:
        with open(file, "rb"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of others, which these are not
            google.auth.load_credentials_from_file(file)
    except (OSError, ValueError, google.auth.exceptions.GoogleAuthError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error.args[0] if error.args else error).split())[:160]
        raise SetupError(
            f"{_KEYS}={file} cannot be used ({reason}): give the JSON file of a service account, or unset it"
        ) from error
