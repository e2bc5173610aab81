"""Writes an encoder or a classifier as one program for every platform, which jax runs without this package."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from cvmae.files import new_folder, write_json
from cvmae.interop.arrays import PROGRAM
from cvmae.interop.huggingface import class_fields
from cvmae.interop.huggingface_config import CONFIG, OWN, own_fields
from cvmae.interop.model_card import Export, write_card
from cvmae.interop.native import write_arrays
from cvmae.interop.preprocessing import Preprocessing, preprocessing_of
from cvmae.interop.pretrained import Pretrained, vit_of
from cvmae.interop.resize import at_crop
from cvmae.models.autoencoder import Autoencoder
from cvmae.models.backbone import Backbone
from cvmae.models.classifier import Classifier
from cvmae.models.heads import pool
from cvmae.models.vit import Encoder

PLATFORMS = ("cpu", "cuda", "tpu")
PARAMS = "params.npz"


def export_stablehlo(pretrained: Pretrained, folder, part: str = "") -> None:
    """Writes model.jax_export, its parameters as params.npz, config.json, and README.md, which shows how to run it, all or nothing.

    The program takes a flat dict of float32 parameters by path and uint8 clips [b, T, H, W, 3], RGB, for any b, which it
    normalizes. A classifier gives logits, float32 [b, classes]; an encoder a dict of float32 `tokens` [b, N, D], `pooled`
    [b, D], their mean, and, if it has one, `cls` [b, D]. It computes in float32; the precision of matrix products is
    the platform's default (TPUs round their factors to bfloat16). config.json holds the names of the classes and how frames were sampled.

    Args:
      pretrained: the weights.
      folder: the folder to write; not there yet, or empty.
      part: `encoder` or `classifier`; empty takes the classifier if there is a head.

    Raises:
      ValueError: there is no such part, it is the autoencoder, or the weights do not record their normalization.
      FileExistsError: the folder holds files.
      ImportError: flatbuffers, with which jax writes programs, is not installed.
    """
    if part == "autoencoder":
        raise ValueError("part is 'autoencoder', whose program would need masks: expected 'encoder' or 'classifier'")
    pretrained = at_crop(pretrained)
    module, params = pretrained.take(part)
    assert not isinstance(module, Autoencoder)
    preprocessing = preprocessing_of(pretrained)
    if preprocessing.mean is None:
        why = "does not record its normalization, which the program applies"
        raise ValueError(f"{pretrained.name} {why}: give `normalization`, mean and std, by dataclasses.replace")
    params = traverse_util.flatten_dict(params, sep="/")
    program = export_program(module, params, preprocessing).serialize()
    with new_folder(folder) as new:
        (new / PROGRAM).write_bytes(program)
        write_arrays(new / PARAMS, params)
        write_json(new / CONFIG, _config(pretrained, isinstance(module, Classifier)))
        name = "classifier" if isinstance(module, Classifier) else "encoder"
        write_card(new, pretrained, name, _export(module, preprocessing), pathlib.Path(folder).absolute().name)


def _config(pretrained: Pretrained, is_classifier: bool) -> dict:
    """Returns config.json, under the names of transformers: the clips, the names of the classes, and how frames were sampled."""
    grid = pretrained.encoder.grid
    clips = {"num_frames": grid.num_frames, "image_size": [grid.height, grid.width]}
    return clips | class_fields(pretrained.head if is_classifier else None) | own_fields(pretrained.sampling)


def export_program(module: Backbone | Classifier, params: dict, preprocessing: Preprocessing) -> export.Exported:
    """Exports the program of a module: (parameters by path, uint8 [b, T, H, W, 3]) -> see `export_stablehlo`."""
    module = _portable(module)

    def run(params, video):
        params = traverse_util.unflatten_dict(params, sep="/")
        out = module.apply({"params": params}, preprocessing(video))
        if isinstance(module, Classifier):
            return out
        named = {"tokens": out.tokens, "pooled": pool(out.tokens)}
        return named if out.cls is None else named | {"cls": out.cls}

    shape = (*export.symbolic_shape("b"), preprocessing.num_frames, preprocessing.height, preprocessing.width, 3)
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params), jax.ShapeDtypeStruct(shape, np.uint8)
    return export.export(jax.jit(run), platforms=PLATFORMS)(*arguments)


def _vit(module: Backbone | Classifier) -> Encoder:
    return vit_of(module.encoder if isinstance(module, Classifier) else module, "the module to export")


def _portable(module: Backbone | Classifier) -> Encoder | Classifier:
    """Returns the module with operations that every platform has; `auto` would choose attention for the machine that exports."""
    encoder = _vit(module)
    encoder = encoder.clone(trunk=dataclasses.replace(encoder.trunk, attention="einsum", dtype=jnp.float32))
    return module.clone(encoder=encoder, attention="einsum") if isinstance(module, Classifier) else encoder


def _export(module: Backbone | Classifier, preprocessing: Preprocessing) -> Export:
    """Returns the lines of the model card: five that run the program with jax and numpy alone, its inputs and outputs."""
    encoder = _vit(module)
    height, width = preprocessing.height, preprocessing.width
    if isinstance(module, Classifier):
        what, result = f"logits, float32 [clips, {module.classes}]", "logits"
    else:
        tokens, size = encoder.grid.tokens, encoder.trunk.size.width
        cls = f", `cls` [clips, {size}]" if encoder.cls_token else ""
        what = f"a dict of float32 `tokens` [clips, {tokens}, {size}] and `pooled` [clips, {size}]{cls}"
        result = "features"
    usage = (
        "import jax, jax.export, numpy as np",
        f'exported = jax.export.deserialize(bytearray(open("{PROGRAM}", "rb").read()))',
        f'params = dict(np.load("{PARAMS}"))',
        f"video = np.zeros({(2, preprocessing.num_frames, height, width, 3)}, np.uint8)  # two clips, RGB, cut to {height}x{width}",
        f"{result} = jax.jit(exported.call)(params, video)",
    )
    compatibility = "https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees"
    names = "the names of the classes by number (`id2label`) and " if isinstance(module, Classifier) else ""
    remarks = (
        f"It gives {what}. Needs jax, numpy and flatbuffers alone, on {', '.join(PLATFORMS)}; any number of clips.",
        f"`{CONFIG}` has {names}how the frames of clips were sampled (`{OWN}`), where the weights record it.",
        f"Written by jax {jax.__version__}, and to be read by those of the [next six months]({compatibility}).",
    )
    return Export("stablehlo", "jax", usage, remarks)
