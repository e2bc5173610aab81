"""Checks of the fields of config.log that turn trackers on."""

import importlib.util
import os
import re

from cvmae.config import require

# The field, the form of its value, and what a message calls it.
FORMS = {
    "wandb": (r"[^/\\#?%:]{1,128}", "the name of a project, without / \\ # ? % :"),
    "mlflow": (r"\w[\w+.-]*://.+|databricks", "a URI such as http://HOST:5000, databricks, or sqlite:///FILE"),
}


def check(log) -> None:
    """Raises ConfigError where a field of config.log has another form, or its tracker is not installed."""
    for kind, (pattern, form) in FORMS.items():
        value = log.get(kind)
        if not value:
            continue
        require(re.fullmatch(pattern, value) is not None, f"config.log.{kind}={value!r} cannot be used: it must be {form}")
        require(
            kind != "mlflow"
            or not value.startswith("file:")
            or os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"),
            f"config.log.mlflow={value!r} is a folder, to which MLflow writes no runs since 3.17: give sqlite:///FILE, a database in a file; "
            "or set MLFLOW_ALLOW_FILE_STORE=true",
        )
        # A folder of that name, such as W&B's own, is found too, but without a file.
        spec = importlib.util.find_spec(kind)
        installed = spec is not None and spec.origin is not None
        require(
            installed, f"config.log.{kind}={value!r} needs {kind}: pip install 'crossvideomae[{kind}]', or leave the field out"
        )
