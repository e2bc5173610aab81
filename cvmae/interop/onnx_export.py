"""Writes an encoder or a classifier as an ONNX model, by way of transformers' VideoMAE, and compares it in onnxruntime."""

import contextlib
import logging
import pathlib
import tempfile
import warnings

import jax
import numpy as np

from cvmae.files import new_folder
from cvmae.interop.arrays import ONNX_MODEL
from cvmae.interop.huggingface import CLASSES, CONFIG, PROCESSOR, refusals, write_hf_videomae
from cvmae.interop.model_card import Export, write_card
from cvmae.interop.pretrained import Pretrained
from cvmae.models.classifier import Classifier

OPSET = 18  # the lowest that torch's exporter writes without a conversion
TOLERANCE = 1e-4  # of the largest difference, relative to the largest output
_OUTPUTS = {"encoder": "last_hidden_state", "classifier": "logits"}
_ONE_FILE = 1 << 31  # bytes of a protobuf; weights of larger models stand in a file beside it
_EXTRA = "--to=onnx needs torch, transformers, onnxscript and onnxruntime: pip install 'crossvideomae[onnx]'"


def write_onnx(pretrained: Pretrained, folder, part: str = "") -> list[str]:
    """Writes model.onnx, config.json, README.md and, if the normalization is known, preprocessor_config.json, all or nothing.

    The model takes `pixel_values`, float32 [clips, T, 3, H, W], normalized, for any number of clips, and gives `last_hidden_state`
    [clips, N, D] or `logits` [clips, classes]. Before the folder has its name, outputs in onnxruntime are compared with those of this
    package's module.

    Args:
      pretrained: the weights.
      folder: the folder to write; not there yet, or empty.
      part: `encoder` or `classifier`; empty takes the classifier if there is a head.

    Returns:
      Notes for the user, one a line.

    Raises:
      ValueError: there is no such part, it is the autoencoder, VideoMAE cannot express it, or the outputs differ.
      FileExistsError: the folder holds files.
      ImportError: a package of the extra `onnx` is not installed.
    """
    part = part or ("classifier" if pretrained.head else "encoder")
    if part == "autoencoder":
        raise ValueError("part is 'autoencoder', whose model would need masks: expected 'encoder' or 'classifier'")
    pretrained.module(part)  # raises if there is no such part
    if problems := refusals(pretrained, part):
        lines = "\n".join(f"  {problem}" for problem in problems)
        remedy = "the argument exportable of a config sets positions and cls token; --to=stablehlo takes any encoder"
        raise ValueError(
            f"ONNX goes by transformers' {CLASSES[part]}, which cannot express {pretrained.name}:\n{lines}\n  {remedy}"
        )
    onnxruntime = _onnxruntime()
    with new_folder(folder) as new, tempfile.TemporaryDirectory() as temporary:
        torch_folder = pathlib.Path(temporary) / "transformers"
        notes = write_hf_videomae(pretrained, torch_folder, part)
        with _quiet():
            _convert(pretrained, torch_folder, new / ONNX_MODEL, part)
        difference = compare(pretrained, part, onnxruntime.InferenceSession(new / ONNX_MODEL))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the ONNX model of {pretrained.name} differs from this package's by {difference:.1e}, more than {TOLERANCE}; nothing was "
                f"written: report it with the versions of torch, transformers and onnxruntime {onnxruntime.__version__}"
            )
        for name in (CONFIG, PROCESSOR):
            if (torch_folder / name).is_file():
                (new / name).write_bytes((torch_folder / name).read_bytes())
        agreement = (
            f"onnxruntime {onnxruntime.__version__} differs from this package's module by {difference:.1e} of the largest output"
        )
        write_card(new, pretrained, part, _export(pretrained, part, agreement), pathlib.Path(folder).absolute().name)
    return [*notes, f"ONNX opset {OPSET}; {agreement}"]


def _onnxruntime():
    """Returns onnxruntime. Raises: ImportError, a package that the export needs is not installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{_EXTRA} ({error})") from error
    return onnxruntime


@contextlib.contextmanager
def _quiet():
    """Silences what torch, onnxscript and transformers say of their own future, of libraries that are not needed, and of their progress."""
    from transformers.utils import logging as transformers_logging

    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if shows_progress:
            transformers_logging.enable_progress_bar()


def _convert(pretrained: Pretrained, folder: pathlib.Path, file: pathlib.Path, part: str) -> None:
    """Writes the ONNX model of a folder of transformers, for any number of clips."""
    import torch
    import transformers

    # Attention in plain products: fused ones are of a device.
    model, info = getattr(transformers, CLASSES[part]).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
    )
    lost = [
        f"{what}: {', '.join(map(str, info[what]))}"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[what]
    ]
    if lost:
        raise ValueError(
            f"transformers {transformers.__version__} does not load all of its VideoMAE ({'; '.join(lost)}): update it"
        )

    class Outputs(torch.nn.Module):
        """The model with one array as its result."""

        def __init__(self):
            super().__init__()
            self.model = model.eval()

        def forward(self, pixel_values):
            return getattr(self.model(pixel_values=pixel_values), _OUTPUTS[part])

    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with torch.no_grad():
        torch.onnx.export(
            Outputs(),
            (torch.from_numpy(_clips(pretrained, 2)),),
            file,
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixel_values"],
            output_names=[_OUTPUTS[part]],
            dynamic_shapes=({0: torch.export.Dim("clips")},),
            external_data=size > 0.9 * _ONE_FILE,
            verbose=False,
        )


def _clips(pretrained: Pretrained, count: int) -> np.ndarray:
    """Returns random clips, float32 [count, T, 3, H, W]."""
    grid = pretrained.encoder.grid
    shape = (count, grid.num_frames, 3, grid.height, grid.width)
    return np.random.default_rng(count).normal(size=shape).astype(np.float32)


def compare(pretrained: Pretrained, part: str, session) -> float:
    """Returns the largest difference between a session of onnxruntime and the module, for one and for three clips.

    It is relative to the module's largest output.
    """
    module, params = pretrained.take(part)
    difference = 0.0
    for count in (1, 3):
        clips = _clips(pretrained, count)
        with jax.default_matmul_precision("highest"):
            out = jax.jit(module.apply)({"params": params}, np.moveaxis(clips, 2, -1))
        wanted = np.asarray(out if isinstance(module, Classifier) else out.tokens, np.float32)
        (got,) = session.run(None, {"pixel_values": clips})
        if got.shape != wanted.shape:
            raise ValueError(f"the ONNX model gives {list(got.shape)} for {count} clips, this package {list(wanted.shape)}")
        difference = max(difference, float(np.abs(got - wanted).max() / np.abs(wanted).max()))
    return difference


def _export(pretrained: Pretrained, part: str, agreement: str) -> Export:
    """Returns the lines of the model card, which run the model in its folder."""
    grid, size = pretrained.encoder.grid, pretrained.vit.trunk.size.width
    shape = (2, grid.num_frames, 3, grid.height, grid.width)
    shown = f"logits [clips, {pretrained.head.classes}]" if part == "classifier" and pretrained.head else ""
    usage = (
        "import numpy as np",
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{ONNX_MODEL}")',
        f"pixel_values = np.zeros({shape}, np.float32)  # two clips, RGB, normalized",
        '(outputs,) = session.run(None, {"pixel_values": pixel_values})',
    )
    remarks = (
        f"It gives float32 {shown or f'last_hidden_state [clips, {grid.tokens}, {size}]'}, for any number of clips. ONNX opset {OPSET}.",
        f"Compared when it was written: {agreement}.",
    )
    return Export("onnx", "onnx", usage, remarks)
