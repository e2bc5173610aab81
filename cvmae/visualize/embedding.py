"""Two-dimensional embeddings of clip features, colored by label."""

import numpy as np

from cvmae.files import replacing
from cvmae.storage.path import as_path
from cvmae.visualize.pca import principal_components

KINDS = ("tsne", "pca")
NAMED = 20  # classes with a color and a name; the others are gray
NAME_CHARS = 28


def embed(features, kind: str, *, perplexity: float = 30.0, seed: int = 0) -> tuple[np.ndarray, str]:
    """Embeds features [n, D] in two dimensions.

    Args:
      features: features of at least 2 clips.
      kind: `pca`, the first two principal components; `tsne`, scikit-learn's t-SNE on cosine distances. With fewer than 5 clips
        `tsne` is replaced by `pca`.
      perplexity: perplexity of t-SNE, about the number of neighbors of a clip; reduced to a third of the clips.
      seed: random seed of t-SNE.

    Returns:
      Coordinates float32 [n, 2], and a description of the method.

    Raises:
      ValueError: the kind is unknown, or there are fewer than 2 clips.
    """
    features = np.asarray(features, np.float32)
    if kind not in KINDS:
        raise ValueError(f"embedding={kind!r} is unknown: take one of {', '.join(KINDS)}")
    if len(features) < 2:
        raise ValueError(f"{len(features)} clips cannot be embedded: give at least 2")
    components, variance = principal_components(features, 2)
    if kind == "pca" or len(features) < 5:
        percent = " and ".join(f"{fraction:.0%}" for fraction in variance)
        return components.astype(np.float32), f"first two principal components, {percent} of the variance"
    from sklearn.manifold import TSNE  # takes a second to import, which no other task should wait for

    perplexity = min(perplexity, (len(features) - 1) / 3)
    # The same scale as scikit-learn's init="pca", whose solver is randomized.
    init = (components * (1e-4 / max(components[:, 0].std(), 1e-12))).astype(np.float32)
    # Barnes-Hut pays off only for many clips, and its threads are slow when they share cores.
    method = "exact" if len(features) < 100 else "barnes_hut"
    tsne = TSNE(perplexity=perplexity, metric="cosine", init=init, random_state=seed, method=method)
    return tsne.fit_transform(features).astype(np.float32), f"t-SNE of cosine distances, perplexity {perplexity:.3g}"


def draw_embedding(path, coordinates, labels, names: tuple[str, ...], title: str) -> None:
    """Writes a scatter plot as PNG.

    Args:
      path: the output file.
      coordinates: [n, 2].
      labels: int [n], -1 unlabeled, drawn small and gray.
      names: class names; () if classes have only numbers.
      title: the title of the plot.
    """
    import matplotlib.figure  # takes a second to import, and the names of this module are read at the start of every task

    coordinates, labels, path = np.asarray(coordinates), np.asarray(labels), as_path(path)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:NAMED]])
    figure = matplotlib.figure.Figure(figsize=(8.4 if len(shown) else 6.4, 6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, loc="left", parse_math=False)
    rest = ~np.isin(labels, shown)
    if rest.any():
        unlabeled = bool((labels[rest] < 0).any())
        name = "other classes" if not unlabeled else "unlabeled" if (labels[rest] < 0).all() else "others, unlabeled"
        x, y = coordinates[rest].T
        axis.scatter(x, y, s=14, color="0.75", linewidths=0, label=name)
    palette = matplotlib.colormaps["tab10" if len(shown) <= 10 else "tab20"]
    for number, label in enumerate(shown):
        name = str(names[label]) if label < len(names) else f"class {label}"
        name = name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
        x, y = coordinates[labels == label].T
        # An integer selects an entry of a qualitative colormap; a list of one color is not mistaken for values.
        axis.scatter(x, y, s=22, color=[palette(number)], linewidths=0, alpha=0.85, label=name.replace("$", r"\$"))
    axis.set(xticks=[], yticks=[])
    axis.set_aspect("equal", adjustable="datalim")
    for spine in axis.spines.values():
        spine.set_color("0.8")
    if len(shown):
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=9, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
