"""Clip embeddings on a plane, colored by label."""

import pathlib

import matplotlib
import matplotlib.figure
import numpy as np

from cvmae.files import replacing
from cvmae.visualize.pca import principal

KINDS = ("tsne", "pca")
NAMED = 20  # classes that have a color and a name; the others are gray
NAME_CHARS = 28


def embed(features, kind: str, *, perplexity: float = 30.0, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places float32 [n, 2] of features [n, D], and how they were found, in words.

    Args:
      features: of at least 2 clips.
      kind: `pca`, the first two principal components; `tsne`, scikit-learn's t-SNE on cosine distances, which needs 5 clips and
        gives way to `pca` where there are fewer.
      perplexity: of t-SNE; about how many neighbors a clip has. At most a third of the clips is used.
      seed: of t-SNE.

    Raises:
      ValueError: the kind is unknown, or there are fewer than 2 clips.
    """
    features = np.asarray(features, np.float32)
    if kind not in KINDS:
        raise ValueError(f"embedding={kind!r} is unknown: take one of {', '.join(KINDS)}")
    if len(features) < 2:
        raise ValueError(f"{len(features)} clips cannot be laid out: give at least 2")
    if kind == "pca" or len(features) < 5:
        found = principal(features, 2)
        shares = " and ".join(f"{share:.0%}" for share in found.shares)
        return found.project(features).astype(np.float32), f"first two principal components, {shares} of the variance"
    from sklearn.manifold import TSNE  # takes a second to import, which no other task should wait for

    used = min(perplexity, (len(features) - 1) / 3)
    start = principal(features, 2).project(features)
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)  # as scikit-learn's init="pca", whose solver draws random numbers
    how = {"perplexity": used, "metric": "cosine", "init": start.astype(np.float32), "random_state": seed}
    # The approximation of distant clips pays off for many alone, and its threads are slow to share cores.
    places = TSNE(method="exact" if len(features) < 100 else "barnes_hut", **how).fit_transform(features)
    return places.astype(np.float32), f"t-SNE of cosine distances, perplexity {used:.3g}"


def draw_embedding(path, places, labels, names: tuple[str, ...], title: str) -> None:
    """Writes a scatter plot.

    Args:
      path: of the PNG.
      places: [n, 2].
      labels: int [n], -1 unlabeled: small and gray.
      names: of the classes; () where they have only numbers.
      title: above it.
    """
    labels, path = np.asarray(labels), pathlib.Path(path)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:NAMED]])
    figure = matplotlib.figure.Figure(figsize=(8.4 if len(shown) else 6.4, 6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, loc="left", parse_math=False)
    rest = ~np.isin(labels, shown)
    if rest.any():
        unlabeled = bool((labels[rest] < 0).any())
        name = "other classes" if not unlabeled else "unlabeled" if (labels[rest] < 0).all() else "others, unlabeled"
        axis.scatter(*places[rest].T, s=14, color="0.75", linewidths=0, label=name)
    palette = matplotlib.colormaps["tab10" if len(shown) <= 10 else "tab20"].colors
    for number, label in enumerate(shown):
        name = str(names[label]) if label < len(names) else f"class {label}"
        name = name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
        axis.scatter(
            *places[labels == label].T, s=22, color=palette[number], linewidths=0, alpha=0.85, label=name.replace("$", r"\$")
        )
    axis.set(xticks=[], yticks=[])
    axis.set_aspect("equal", adjustable="datalim")
    for side in axis.spines.values():
        side.set_color("0.8")
    if len(shown):
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=9, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
