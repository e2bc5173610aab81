"""Writes folders that transformers' VideoMAE classes load; `huggingface_config` reads such folders."""

import pathlib

import numpy as np
import safetensors.numpy

from cvmae.files import new_folder, write_json
from cvmae.interop.convert import export_arrays
from cvmae.interop.huggingface_config import CONFIG, OWN, PROCESSOR, own_fields
from cvmae.interop.huggingface_models import ACTIVATIONS, FIXED_EPS, MULTI_LABEL
from cvmae.interop.key_maps.common import IMAGENET
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, HF_VIDEOMAE_ENCODER
from cvmae.interop.model_card import CARD, Export, write_card
from cvmae.interop.pretrained import Head, Pretrained
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.vit import Encoder, TransformerConfig

WEIGHTS = "model.safetensors"
# Releases of transformers that load the biases of VideoMAE's queries and values as zeros and only report unexpected keys: they
# renamed them in the model without a rule for published files, which came with https://github.com/huggingface/transformers/pull/48675.
LOST_BIASES = ("5.5.1", "5.17.0")
FIRST_WHOLE = "5.18.0"
KEY_MAPS = {"encoder": HF_VIDEOMAE_ENCODER, "autoencoder": HF_VIDEOMAE, "classifier": HF_VIDEOMAE_CLASSIFIER}
CLASSES = {part: key_map.layout for part, key_map in KEY_MAPS.items()}


def write_hf_videomae(pretrained: Pretrained, folder, part: str = "") -> list[str]:
    """Writes model.safetensors, config.json, README.md and, if the normalization is known, preprocessor_config.json, all or nothing.

    Args:
      pretrained: the weights.
      folder: the folder to write; not there yet, or empty.
      part: `encoder` for VideoMAEModel, `autoencoder` for VideoMAEForPreTraining, `classifier` for
        VideoMAEForVideoClassification. Empty takes the classifier if there is a head, else the autoencoder if that class
        can express it, else the encoder.

    Returns:
      Notes for the user, one a line.

    Raises:
      ValueError: there is no such part, or the class cannot express it; the message lists every reason with the config's field
        to choose in training.
      FileExistsError: the folder holds files.
    """
    part, notes = _choose(pretrained, part)
    if problems := refusals(pretrained, part):
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(f"transformers' {CLASSES[part]} cannot express {pretrained.name}:\n{lines}")
    arrays, array_notes = _arrays(pretrained, part)
    with new_folder(folder) as new:
        # transformers requires this metadata to make torch tensors of the arrays.
        safetensors.numpy.save_file(arrays, new / WEIGHTS, {"format": "pt"})
        write_json(new / CONFIG, hf_config(pretrained, part))
        write_card(new, pretrained, part, _export(pretrained, part), pathlib.Path(folder).absolute().name)
        if pretrained.normalization:
            write_json(new / PROCESSOR, processor_config(pretrained))
    return notes + array_notes + _notes(pretrained, part)


def _choose(pretrained: Pretrained, part: str) -> tuple[str, list[str]]:
    """Returns the part to write, and a note if it is not the largest there is."""
    if part:
        pretrained.module(part)  # raises if there is no such part
        return part, []
    part = pretrained.parts[-1]
    why = refusals(pretrained, part) if part == "autoencoder" else []
    if why and not refusals(pretrained, "encoder"):
        return "encoder", [f"the encoder alone: {CLASSES[part]} cannot express the decoder ({'; '.join(why)})"]
    return part, [f"written as {CLASSES[part]}"]


def refusals(pretrained: Pretrained, part: str) -> list[str]:
    """Lists why the class of a part cannot express these weights, each reason with the config's field to choose in training."""
    encoder = pretrained.vit
    decoder, head = _parts(pretrained, part)
    problems = []
    if encoder.cls_token:
        problems.append("the encoder has a cls token: train with video_branch.cls_token=False")
    if encoder.positions != "sincos1d":
        problems.append(f"the encoder's positions are {encoder.positions}: train with video_branch.positions=sincos1d")
    if decoder is not None:
        problems += _decoder_refusals(pretrained, decoder)
    if head is not None and (head.pool == "first") != encoder.final_norm:
        pool, norm = head.pool, "has a" if encoder.final_norm else "has no"
        fix = "head.pool=first with video_branch.final_norm=True, or with head.pool=mean"
        problems.append(f"the head pools {pool!r} and the encoder {norm} last norm: train with {fix}")
    return problems


def _parts(pretrained: Pretrained, part: str) -> tuple[DecoderSpec | None, Head | None]:
    """Returns the decoder and the head, each None if the class of the part has none."""
    return pretrained.decoder if part == "autoencoder" else None, pretrained.head if part == "classifier" else None


def _decoder_refusals(pretrained: Pretrained, spec: DecoderSpec) -> list[str]:
    """Lists the settings of the decoder and its targets that VideoMAEForPreTraining has no field for."""
    encoder = pretrained.vit
    problems = []
    if spec.cls != "none":
        problems.append(f"the decoder's cls is {spec.cls!r}: train with video_branch.decoder.cls=none")
    if spec.embed_bias:
        problems.append("the decoder's projection has a bias: train with video_branch.decoder.embed_bias=False")
    if spec.positions != "sincos1d":
        problems.append(f"the decoder's positions are {spec.positions}: train with video_branch.decoder.positions=sincos1d")
    if spec.target_tubelet(encoder.grid) != encoder.grid.tubelet:
        problems.append("it predicts some frames of the clip only: train with video_branch.decoder.target_frames=0")
    if pretrained.target_norm not in ("", "patch_channel"):
        norm = pretrained.target_norm
        problems.append(f"its targets are normalized by {norm!r}: train with video_branch.target_norm=patch_channel")
    # Its loss undoes ImageNet's normalization before it makes targets, whatever its processor did.
    normalization = pretrained.normalization
    if normalization and not all(np.allclose(normalization[k], v, atol=1e-6) for k, v in IMAGENET.items()):
        mean, std = IMAGENET["mean"], IMAGENET["std"]
        problems.append(f"the normalization is not ImageNet's: train with augment.mean={mean} and augment.std={std}")
    if (spec.trunk.qkv_bias == "none") != (encoder.trunk.qkv_bias == "none"):
        problems.append("encoder and decoder differ in biases of queries and values: train both with one video_branch.qkv_bias")
    if spec.trunk.mlp != encoder.trunk.mlp:
        problems.append("the blocks of encoder and decoder differ in mlp: train both with one video_branch.mlp")
    if spec.trunk.eps != encoder.trunk.eps:
        problems.append("the blocks of encoder and decoder differ in eps: train both with one video_branch.eps")
    return problems


def _arrays(pretrained: Pretrained, part: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of the class by its keys, and notes on what is left out of them."""
    _, params = pretrained.take(part)
    params = {"encoder": params} if part == "encoder" else dict(params)
    notes = []
    decoder, _ = _parts(pretrained, part)
    trunks = {"encoder": pretrained.vit.trunk} | ({} if decoder is None else {"decoder": decoder.trunk})
    for branch, trunk in trunks.items():
        if trunk.qkv_bias == "qkv":
            params[branch] = params[branch] | {"blocks": _without_key_biases(params[branch]["blocks"])}
            notes.append(f"key biases of the {branch} left out: the softmax cancels what all logits of a query share")
    return export_arrays(params, KEY_MAPS[part], pretrained.encoder.grid), notes


def _without_key_biases(blocks: dict) -> dict:
    """Drops the biases of keys, each of which adds one number to all logits of a query: the outputs stay the same."""
    kept = {}
    for name, block in blocks.items():
        attention = block["attention"] | {"key": {"kernel": block["attention"]["key"]["kernel"]}}
        kept[name] = block | {"attention": attention}
    return kept


def _notes(pretrained: Pretrained, part: str) -> list[str]:
    """Lists where the class computes, or assumes, something else than this package's modules."""
    notes = []
    decoder, head = _parts(pretrained, part)
    slightly = f"in transformers {FIXED_EPS} whatever its config says: outputs differ slightly"
    if decoder is not None and decoder.norm_eps != FIXED_EPS:
        notes.append(f"video_branch.decoder.norm_eps is {decoder.norm_eps}, {slightly}")
    if head is not None and head.pool == "mean" and head.eps != FIXED_EPS:
        notes.append(f"head.eps is {head.eps}, {slightly}")
    if part == "autoencoder" and not (pretrained.target_norm and pretrained.normalization):
        notes.append("the weights do not record VideoMAE's training: ImageNet's normalization, targets by patch and channel")
    if not pretrained.normalization:
        notes.append(f"no {PROCESSOR}: the weights do not record their normalization")
    elif pretrained.encoder.grid.height != pretrained.encoder.grid.width:
        notes.append("transformers' processor pads frames that are narrower or lower than the crop; this package enlarges them")
    if pretrained.sampling is not None:
        where = f"{CARD} says it, and {CONFIG} records it under {OWN!r} for this package"
        notes.append(f"transformers has no fields for the sampling of frames, {pretrained.sampling}: {where}")
    return notes


def hf_config(pretrained: Pretrained, part: str) -> dict:
    """Returns config.json: a VideoMAEConfig of transformers 4 and 5."""
    decoder, head = _parts(pretrained, part)
    config = {
        "architectures": [CLASSES[part]],
        "model_type": "videomae",
        "num_channels": 3,
        "hidden_act": ACTIVATIONS[pretrained.vit.trunk.mlp][0],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **config_fields(pretrained.vit, decoder),
        **own_fields(pretrained.sampling),
    }
    if part == "autoencoder":
        config["norm_pix_loss"] = True
    return config | class_fields(head)


def class_fields(head: Head | None) -> dict:
    """Returns the fields of config.json about the classes of a head; empty without one."""
    if head is None:
        return {}
    names = head.names or [f"LABEL_{i}" for i in range(head.classes)]  # transformers' own names
    fields: dict = {"id2label": {str(i): name for i, name in enumerate(names)}}
    fields["label2id"] = {name: i for i, name in enumerate(names)}
    return fields | ({"problem_type": MULTI_LABEL} if head.loss == "sigmoid" else {})


def config_fields(encoder: Encoder, decoder: DecoderSpec | None = None) -> dict:
    """Returns the fields of a VideoMAEConfig that give a model the sizes of these modules."""
    grid, trunk = encoder.grid, encoder.trunk
    fields = {
        "image_size": grid.height if grid.height == grid.width else [grid.height, grid.width],
        "patch_size": grid.patch,
        "num_frames": grid.num_frames,
        "tubelet_size": grid.tubelet,
        **_stack_fields(trunk),
        "layer_norm_eps": trunk.eps,
        "qv_bias": trunk.qkv_bias != "none",
        "qkv_bias": trunk.qkv_bias != "none",  # the same to transformers 4
        "use_mean_pooling": not encoder.final_norm,
    }
    if decoder is not None:
        fields |= {f"decoder_{name}": value for name, value in _stack_fields(decoder.trunk).items()}
    return fields


def _stack_fields(trunk: TransformerConfig) -> dict[str, int]:
    size = trunk.size
    return {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": round(size.width * size.mlp_ratio),
    }


def processor_config(pretrained: Pretrained) -> dict:
    """Returns preprocessor_config.json: a VideoMAEImageProcessor that does what `Preprocessing` does."""
    grid, normalization = pretrained.encoder.grid, pretrained.normalization
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(grid.height, grid.width)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": grid.height, "width": grid.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalization["mean"]),
        "image_std": list(normalization["std"]),
    }


def _export(pretrained: Pretrained, part: str) -> Export:
    """Returns the lines of the model card: how to load the folder, and with which versions of transformers, checked by their sources."""
    first, last = LOST_BIASES
    usage = [
        "import numpy as np",
        "import transformers",
        "",
        'folder = "."  # this folder, or OWNER/NAME on the Hugging Face hub',
        f"model, info = transformers.{CLASSES[part]}.from_pretrained(folder, output_loading_info=True)",
        'assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info',
    ]
    if pretrained.normalization and part != "autoencoder":  # which would need a mask
        usage += [
            "processor = transformers.AutoImageProcessor.from_pretrained(folder)",
            f"frames = [np.zeros((240, 320, 3), np.uint8)] * {pretrained.encoder.grid.num_frames}  # of a clip, RGB",
            'outputs = model(**processor(frames, return_tensors="pt"))',
        ]
    else:
        del usage[0]
    if pretrained.vit.trunk.qkv_bias == "none":
        remarks = ["This model has no biases of queries and values: any version of transformers with VideoMAE loads it."]
    else:
        remarks = [
            f"Versions of transformers that are safe: {FIRST_WHOLE} and later, and 5.5.0 and earlier.",
            "",
            f"Versions {first} to {last} load this model, as every published VideoMAE, with the biases of queries and values at zero:",
            "they report `q_bias` and `v_bias` as unexpected keys, raise no error, and the outputs are wrong. The lines above find that.",
        ]
    return Export("hf-videomae", "transformers", tuple(usage), tuple(remarks))
