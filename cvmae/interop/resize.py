"""Weights for clips of another number of frames or another size: positions are interpolated, or computed for the new grid."""

import dataclasses

import numpy as np

from cvmae.interop.hints import ModelHints
from cvmae.interop.pretrained import Pretrained, WeightsError, too_large
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.factorized import BlockEncoder, FactorizedEncoder
from cvmae.models.patches import Grid
from cvmae.models.positions import FIXED, Interpolation, Positions, interpolate_params
from cvmae.models.vit import Encoder

# What a run can take in place of positions that are computed for its grid.
LEARNED = " (--config.video_branch.positions=learned starts from the old ones, interpolated)"


def as_asked(source: Pretrained, hints: ModelHints) -> Pretrained:
    """Returns weights at the size of `hints`. Raises: WeightsError, they record other heads; or see `at_size`."""
    asked = {} if hints.recorded_first else {"heads": hints.heads, "decoder_heads": hints.decoder_heads}
    recorded = {"heads": source.block_encoder.trunk.size.heads} if asked.get("heads") else {}
    recorded |= {"decoder_heads": source.decoder.trunk.size.heads} if source.decoder is not None else {}
    problems = [
        f"{name} is {asked[name]}, and the weights record {heads}: leave --{name}, or {name} of ModelHints, out"
        for name, heads in recorded.items()
        if asked.get(name) and asked[name] != heads
    ]
    if problems:
        raise WeightsError(source.name, problems)
    return at_size(source, hints.num_frames, hints.sides)


def at_size(source: Pretrained, num_frames: int = 0, size: tuple[int, int] = (0, 0)) -> Pretrained:
    """Returns weights whose modules take other clips, with notes on what became of the positions.

    Learned positions are interpolated, as transformers does where it can (`interpolate_pos_encoding`); fixed and rotary ones are
    computed for the new clips.

    Args:
      source: the weights.
      num_frames: frames of a clip; 0 keeps their number.
      size: (height, width) of frames in pixels; (0, 0) keeps it.

    Raises:
      WeightsError: the size is no multiple of the patches, or too large; or an image encoder is to take several frames.
      ValueError: the encoder is neither a ViT nor a factorized encoder.
    """
    old = source.encoder.grid
    height, width = size if any(size) else (old.height, old.width)
    source = dataclasses.replace(source, crop=None) if any(size) else source
    if (num_frames or old.num_frames, height, width) == (old.num_frames, old.height, old.width):
        return source
    encoder = source.block_encoder
    if num_frames > 1 == old.num_frames == old.tubelet and isinstance(encoder, Encoder):
        remedy = "leave num_frames out, or make a video encoder of it by `python -m cvmae.interop import --inflate=mean`"
        raise WeightsError(source.name, [f"it is an encoder of single frames, which takes no clips of {num_frames}: {remedy}"])
    try:
        grid = dataclasses.replace(old, num_frames=num_frames or old.num_frames, height=height, width=width)
    except ValueError as error:
        raise WeightsError(source.name, [str(error)]) from error
    if problem := too_large(grid, encoder.trunk.size.width):
        raise WeightsError(source.name, [problem])
    new = encoder.clone(grid=grid)
    params = dict(source.params["encoder"])
    positions, notes = adapt_positions(params.pop("positions", {}), encoder, new)
    all_params = source.params | {"encoder": params | ({"positions": positions} if positions else {})}
    decoder = source.decoder
    if decoder is not None:
        decoder = decoder_at(decoder, old, grid)
        all_params["decoder"], decoder_notes = adapt_decoder(source, new, decoder)
        notes = notes + decoder_notes
    clips = f"{f'{grid.num_frames} ' if grid.num_frames > 1 else ''}frames of {grid.height}x{grid.width} pixels"
    notes = [f"for {clips}: {note}" for note in notes]
    return dataclasses.replace(source, encoder=new, params=all_params, decoder=decoder, notes=(*source.notes, *notes))


def at_crop(source: Pretrained) -> Pretrained:
    """Returns weights at the size of the frames that the image processor beside them makes, which transformers feeds.

    Under fixed positions, which no other size has, and where no patch fits, the size stays that of the weights, with a note.
    """
    if source.crop is None:
        return source
    encoder = source.block_encoder
    grid, (height, width) = encoder.grid, source.crop
    says = f"the image processor beside the weights makes frames of {height}x{width} pixels"
    rows, columns = height // grid.patch, width // grid.patch
    if encoder.positions in FIXED or not rows * columns:
        why = (
            f"positions {encoder.positions} are those"
            if rows * columns
            else f"patches are of {grid.patch}, and the encoder is that"
        )
        note = f"{says}; {why} of {grid.height}x{grid.width}, which is taken: ModelHints(size=...) takes another"
        return dataclasses.replace(source, notes=(*source.notes, note))
    size = rows * grid.patch, columns * grid.patch
    filled = "" if size == (height, width) else f", of which patches of {grid.patch} fill {size[0]}x{size[1]}"
    note = f"{says}{filled}: the encoder, of {grid.height}x{grid.width}, is taken at that size"
    return at_size(dataclasses.replace(source, notes=(*source.notes, note)), size=size)


def decoder_at(decoder: DecoderSpec, old: Grid, new: Grid) -> DecoderSpec:
    """Returns a decoder for another grid, which predicts as many frames of each token as before."""
    frames = decoder.target_tubelet(old) * new.time_patches
    return dataclasses.replace(decoder, target_frames=0 if frames == new.num_frames else frames)


def adapt_decoder(source: Pretrained, encoder: BlockEncoder, decoder: DecoderSpec, remedy: str = "") -> tuple[dict, list[str]]:
    """Adapts the decoder's arrays to another grid; returns them, and notes on what changed, see `adapt_positions`."""
    assert source.decoder is not None  # the caller asks for none where the weights have none
    params = dict(source.params["decoder"])
    old, new = (
        Encoder(spec.trunk, grid, spec.positions, spec.cls != "none")
        for spec, grid in ((source.decoder, source.encoder.grid), (decoder, encoder.grid))
    )
    positions, notes = adapt_positions(params.pop("positions", {}), old, new, remedy)
    return params | ({"positions": positions} if positions else {}), [f"decoder {note}" for note in notes]


def adapt_positions(params: dict, source: BlockEncoder, target: BlockEncoder, remedy: str = "") -> tuple[dict, list[str]]:
    """Adapts the parameters of `Positions` of one encoder to another encoder; returns them, and notes on what changed.

    Args:
      params: of `source`.
      source, target: the encoders.
      remedy: the end of the note that fixed positions are computed for the new grid.
    """
    old, new, notes = source.grid, target.grid, []
    shapes = ["x".join(map(str, grid.shape)) for grid in (old, new)]
    if target.positions == "learned" and source.positions != "learned":
        module = Positions(source.positions, old, source.trunk.size.width, source.cls_token)
        table, cls = module.apply({"params": params})
        params = {"table": np.asarray(table)} | ({"cls": np.asarray(cls)} if target.cls_token else {})
        notes.append(f"positions {source.positions} become the start of learned ones")
    if old.shape == new.shape:
        return params, notes
    if source.positions == "rope3d":
        return params, [*notes, f"positions rope3d {shapes[0]} -> {shapes[1]} computed for the new grid"]
    if not params:
        computed = f"positions {source.positions} {shapes[0]} -> {shapes[1]} computed for the new grid, not interpolated"
        return params, [*notes, computed + remedy]
    spans = {
        "time": (f"{old.time_patches} -> {new.time_patches} time patches", old.time_patches != new.time_patches),
        "space": (f"{old.rows}x{old.columns} -> {new.rows}x{new.columns}", old.shape[1:] != new.shape[1:]),
        "table": (" -> ".join(shapes), True),
    }
    changed = [(key, spans[key][0]) for key in params if key in spans and spans[key][1]]
    # VideoPrism and DINOv2 with registers filter the table before it is made smaller; the others do not.
    is_factorized = isinstance(source, FactorizedEncoder)
    way = Interpolation(antialias=is_factorized or source.registers > 0, bilinear=is_factorized)
    return interpolate_params(params, old, new, way), notes + [f"positions/{key} {span} interpolated" for key, span in changed]
