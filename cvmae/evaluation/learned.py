"""What pre-training taught an encoder, beside the same encoder untrained."""

import jax
import numpy as np

from cvmae import augment, multihost
from cvmae.evaluation.features import encode_pixels, extract
from cvmae.evaluation.heldout import HeldOut
from cvmae.evaluation.probe import linear_probe
from cvmae.evaluation.retrieval import nearest_label_agreement, partner_ranks, recall
from cvmae.evaluation.titles import ROWS
from cvmae.inputs import view_spec
from cvmae.models.build import build_encoder, video_grid


def view_features(held_out: HeldOut, params):
    """Features of two views, v and v⁺, of every held-out clip, nothing masked: two float32 [n, D]."""
    config = held_out.objective.config
    encoder = build_encoder(config, config.video_branch, video_grid(config))
    spec = view_spec(config, 2)

    @jax.jit
    def encode(params, samples):
        views, _ = jax.vmap(lambda k, v, i: augment.make_views(k, v, i, spec, False))(
            samples["views"], samples["video"], samples["frame_index"]
        )
        return [encode_pixels(config, encoder, params, views[:, view]) for view in range(2)]

    rows = [multihost.everywhere(encode(params, samples)) for samples in held_out.samples()]
    return [np.concatenate(column) for column in zip(*rows)]


def assess(held_out: HeldOut, params, train_source, labelled: int, clips: int) -> dict[str, float]:
    """Every number of the report for one set of parameters.

    Args:
      held_out: clips not trained on.
      params: of the whole model.
      train_source: where the probe's labels come from.
      labelled: how many clips of it the probe is fitted on.
      clips: how many held-out clips the probe is scored on.

    Returns:
      {name: value}: `reconstruction/*` errors, `accuracy/*` of the contrastive terms, `retrieval/*`, and `probe/accuracy`;
      shares in 0..1.
    """
    objective = held_out.objective
    found = {}
    if "mse_video" in objective.needs.active:
        found |= {f"reconstruction/{name}": value for name, value in held_out.reconstruction(params).items()}
    found |= {name: value for name, value in held_out.terms(params).items() if name.startswith("accuracy/")}
    encoder = params["video"]["encoder"]
    one, two = view_features(held_out, encoder)
    ranks = partner_ranks(one, two)
    found |= {"retrieval/same_clip_r1": recall(ranks, 1), "retrieval/same_clip_r5": recall(ranks, 5)}
    found["retrieval/median_rank"] = float(np.median(ranks))
    test = extract(objective.config, encoder, held_out.source, clips)
    if len(np.unique(test.labels[test.labels >= 0])) > 1:
        found["retrieval/same_label_1nn"] = nearest_label_agreement(test.values, test.labels)
        found["probe/accuracy"] = linear_probe(extract(objective.config, encoder, train_source, labelled), test)
    return found


def table(trained: dict[str, float], untrained: dict[str, float] | None = None) -> str:
    """The numbers of `assess` side by side, as text."""
    columns = {"untrained": untrained or {}, "trained": trained}
    lines = [f"{'on clips not trained on':<38}" + "".join(f"{name:>11}" for name, found in columns.items() if found)]
    for name, title, share in ROWS:
        if name in trained:
            cells = (f"{100 * v[name]:.1f} %" if share else f"{v[name]:.3f}" for v in columns.values() if v)
            lines.append(f"{title:<38}" + "".join(f"{cell:>11}" for cell in cells))
        if name == "reconstruction/model" and name in trained:
            for baseline in ("mean_patch", "nearest_patch"):
                title = f"  baseline: {baseline.replace('_', ' ')}"
                lines.append(f"{title:<38}{trained[f'reconstruction/{baseline}']:>{22 if untrained else 11}.3f}")
    return "\n".join(lines)
