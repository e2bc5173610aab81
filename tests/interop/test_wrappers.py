"""Weights whose keys begin with what wrapped the model: known wrappers come off with a note, others are named with the remedy."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cvmae.interop import WeightsError
from cvmae.interop.hints import ModelHints
from cvmae.interop.key_maps.mae import MAE
from cvmae.interop.key_maps.mae_st import MAE_ST
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, VIDEOMAE, VIDEOMAE_CLASSIFIER
from cvmae.interop.load import read_file
from cvmae.interop.wrappers import unwrap
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.classifier import Classifier
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop.models import image_mae, random_params, rewrite, save_weights, videomae

HINTS = ModelHints(heads=2, decoder_heads=2, num_frames=4, size=(16, 16))
GRID = Grid(4, 16, 16, 2, 8)
CLASSIFIER = Classifier(Encoder(TransformerConfig(ViTSize(16, 2, 2), "qv"), GRID, "sincos1d", final_norm=False), 5)


def mae_st() -> Autoencoder:
    encoder = Encoder(TransformerConfig(ViTSize(16, 1, 2)), GRID, "separable", cls_token=True)
    return Autoencoder(encoder, Decoder(DecoderSpec(TransformerConfig(ViTSize(8, 1, 2)), "unshuffle", "separable", "own"), GRID))


LAYOUTS = {
    "VideoMAE": (videomae(), VIDEOMAE),
    "VideoMAE's classifier": (CLASSIFIER, VIDEOMAE_CLASSIFIER),
    "transformers' VideoMAE": (videomae(), HF_VIDEOMAE),
    "transformers' classifier": (CLASSIFIER, HF_VIDEOMAE_CLASSIFIER),
    "MAE": (image_mae(), MAE),
    "mae_st": (mae_st(), MAE_ST[0]),
}
PREFIXES = [
    "_orig_mod.",
    "module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model.module.",
    "backbone.",
    "net.",
    "network.",
]
PREFIXES += ["model.backbone.", "module.model._orig_mod.", "_fsdp_wrapped_module.", "module._fsdp_wrapped_module._orig_mod."]


@pytest.fixture
def write(tmp_path):
    """Writes the weights of one of LAYOUTS with renamed keys, and returns the parameters and the file."""

    def write(layout, rename, suffix=".safetensors"):
        module, key_map = LAYOUTS[layout]
        params, file = random_params(module), tmp_path / "a.safetensors"
        encoder = module.encoder
        save_weights(file, params, key_map, encoder.grid)
        arrays = {rename(key): array for key, array in load_file(file).items()}
        if suffix == ".npz":
            file = file.with_suffix(suffix)
            np.savez(file, **arrays)
        elif suffix == ".pth":
            torch = pytest.importorskip("torch")
            file = file.with_suffix(suffix)
            torch.save({"model": {key: torch.from_numpy(array) for key, array in arrays.items()}}, file)
        else:
            save_file(arrays, file)
        return params, file

    return write


def same(loaded, params):
    flat = {path: array for part in params for path, array in _flat(params[part], part)}
    assert flat.keys() == {path for part in loaded.params for path, _ in _flat(loaded.params[part], part)}
    for part in loaded.params:
        for path, array in _flat(loaded.params[part], part):
            np.testing.assert_array_equal(array, flat[path], err_msg=path)


def _flat(tree, path):
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from _flat(inner, f"{path}/{name}")
    else:
        yield path, tree


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_wrappers_has_no_note(layout, write):
    params, file = write(layout, lambda key: key)
    loaded = read_file(file, hints=HINTS)
    same(loaded, params)
    assert not any("taken off" in note for note in loaded.notes)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_known_wrappers_come_off(prefix, write):
    params, file = write("VideoMAE's classifier", lambda key: prefix + key)
    loaded = read_file(file, hints=HINTS)
    same(loaded, params)
    for name in prefix.split(".")[:-1]:
        assert any("taken off" in note and f"'{name}.'" in note for note in loaded.notes), (name, loaded.notes)
    assert all(key.startswith(prefix) for key in loaded.sources.values())  # the keys of the file


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_of_every_layout_in_every_format(layout, suffix, write):
    params, file = write(layout, lambda key: f"module._orig_mod.{key}", suffix)
    same(read_file(file, hints=HINTS), params)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace("blocks.0.", "blocks.0._orig_mod."),
        lambda key: key.replace("blocks.", "blocks._checkpoint_wrapped_module."),
        lambda key: f"module.{key}".replace("attn.", "attn._fsdp_wrapped_module."),
        lambda key: key if key.startswith(("head.", "fc_norm.")) else f"backbone.{key}",
        lambda key: key if key.startswith("head.") else f"model._orig_mod.{key}",
        lambda key: f"model.{key}" if key.startswith(("head.", "fc_norm.")) else f"model.encoder.{key}",
    ],
    ids=[
        "compiled blocks",
        "checkpointing",
        "FSDP inside",
        "backbone beside its head",
        "compiled beside its head",
        "encoder and head",
    ],
)
def test_wrapped_parts(rename, write):
    params, file = write("VideoMAE's classifier", rename)
    loaded = read_file(file, hints=HINTS)
    same(loaded, params)
    assert loaded.head.classes == 5 and any("taken off" in note for note in loaded.notes)


def test_the_counter_of_an_averaged_model_is_left_out(write):
    params, file = write("VideoMAE", lambda key: f"module.{key}")
    rewrite(file, lambda arrays: arrays.update(n_averaged=np.array(7)))
    loaded = read_file(file, hints=HINTS)
    same(loaded, params)
    assert loaded.ignored == {"n_averaged": "the counter of torch's AveragedModel, no weight"}


@pytest.mark.parametrize("prefix", ["student.", "video_encoder.", "a.b.c."])
def test_other_prefixes_are_named(prefix, write):
    _, file = write("VideoMAE's classifier", lambda key: prefix + key)
    with pytest.raises(WeightsError) as caught:
        read_file(file, hints=HINTS)
    (problem,) = caught.value.problems
    assert f"without {prefix!r} they fit videomae, fine-tuned: take that prefix off" in problem


def test_keys_beside_a_wrapped_model_are_named(write):
    """Two models, or a loss with weights: which is wanted is not for the reader to say."""
    _, file = write("VideoMAE's classifier", lambda key: f"model.{key}")
    rewrite(file, lambda arrays: arrays.update({"criterion.weight": np.ones(5, np.float32)}))
    with pytest.raises(WeightsError, match=r"without 'model.' they fit .* leave out the other 1 keys \(criterion.weight"):
        read_file(file, hints=HINTS)
    rewrite(file, lambda arrays: arrays.update({key.replace("model.", "ema."): a for key, a in list(arrays.items())}))
    with pytest.raises(WeightsError, match="leave out the other"):
        read_file(file, hints=HINTS)


def test_two_keys_that_become_one(write):
    _, file = write("VideoMAE's classifier", lambda key: key)
    rewrite(file, lambda arrays: arrays.update({"_orig_mod.head.bias": arrays["head.bias"] + 1}))
    with pytest.raises(WeightsError, match="twice: .*head.bias and .*head.bias are both head.bias"):
        read_file(file, hints=HINTS)


def test_errors_name_the_keys_of_the_file(write):
    _, file = write("VideoMAE's classifier", lambda key: f"module.{key}")

    def damage(arrays):
        arrays["module.head.weight"] = np.zeros((5, 17), np.float32)
        arrays["module.more"] = np.zeros(3, np.float32)
        del arrays["module.blocks.1.attn.q_bias"]

    rewrite(file, damage)
    with pytest.raises(WeightsError) as caught:
        read_file(file, hints=HINTS)
    assert sorted(caught.value.problems) == [
        "left over: module.more [3] is not a key of videomae, fine-tuned",
        "mis-shaped: module.head.weight is [5, 17], expected [5, 16]",
        "missing: nothing there for encoder/blocks/block1/attention/query/bias: the file has no blocks.1.attn.q_bias [16]",
    ]


def test_what_is_no_model_says_what_comes_nearest(tmp_path):
    save_file({"blocks.0.attn.qkv.weight": np.zeros((48, 16), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"1 of the 1 keys are those of .*, but none starts with .*patch_embed.proj."):
        read_file(tmp_path / "a.safetensors")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no key is one of theirs"):
        read_file(tmp_path / "a.safetensors")


def test_unwrap_leaves_no_key_empty():
    assert dict(unwrap(["module.", "module.a"]).bare_keys) == {"module.": "module.", "module.a": "module.a"}
    assert dict(unwrap(["_orig_mod"]).bare_keys) == {"_orig_mod": "_orig_mod"}
    assert not unwrap([]).bare_keys
