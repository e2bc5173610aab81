"""CrossVideoMAE (arXiv 2502.07811) in JAX and Flax. The public names; each is imported when it is first used."""

import importlib
import pathlib
import warnings

from cvmae.version import __version__

_checkout = pathlib.Path(__file__).parent.parent
if (_checkout / "configs" / "common.py").is_file():
    __path__.append(str(_checkout))  # cvmae.configs is the folder beside this one; a wheel has it inside

_PUBLIC = {
    "Autoencoder": "cvmae.models.autoencoder",
    "Classifier": "cvmae.models.classifier",
    "CrossVideo": "cvmae.models.crossvideo",
    "Decoder": "cvmae.models.autoencoder",
    "DecoderSpec": "cvmae.models.autoencoder",
    "Encoder": "cvmae.models.vit",
    "FactorizedEncoder": "cvmae.models.factorized",
    "FeatureError": "cvmae.evaluation.feature_reading",
    "FeatureFolder": "cvmae.evaluation.feature_folder",
    "Grid": "cvmae.models.patches",
    "Mask": "cvmae.models.masking",
    "Objective": "cvmae.objective.objective",
    "Record": "cvmae.data.records",
    "Source": "cvmae.data.records",
    "TransformerConfig": "cvmae.models.vit",
    "UnreadableError": "cvmae.data.records",
    "VIT_SIZES": "cvmae.models.vit",
    "VideoEncoder": "cvmae.evaluation.embed",
    "build_model": "cvmae.objective.objective",
    "embed": "cvmae.evaluation.embed",
    "load": "cvmae.interop.load",
    "load_encoder": "cvmae.evaluation.embed",
    "nt_xent": "cvmae.objective.losses",
    "run": "cvmae.tasks",
}
_MODULES = ("config", "interop", "objective")
_OLD = {"Trunk": "TransformerConfig", "SIZES": "VIT_SIZES"}  # names before version 0.2
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str):
    # Reading video needs no jax: workers that decode import this package and should start quickly.
    if name in _OLD:
        warnings.warn(f"cvmae.{name} is now cvmae.{_OLD[name]}", DeprecationWarning, stacklevel=2)
        name = _OLD[name]
    if name in _MODULES:
        return importlib.import_module(f"cvmae.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cvmae' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return __all__
