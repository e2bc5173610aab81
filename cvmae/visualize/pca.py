"""Principal components of tokens and features, as coordinates and as colors."""

import numpy as np


def principal_components(rows, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Projects rows [n, D] onto their first `count` principal components (scikit-learn's PCA).

    The same rows always give the same signs: every axis has its entry of largest magnitude above 0.

    Returns:
      float64 [n, count], centered, and the fraction of the variance that each component explains, [count]. Components beyond
      min(n, D), and the fractions of rows that are all equal, are 0.
    """
    from sklearn.decomposition import PCA  # takes a second to import, which no other task should wait for

    rows = np.asarray(rows, np.float64)
    pca = PCA(min(count, *rows.shape), svd_solver="full")  # the exact solver; others are randomized or less accurate
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 if the rows are equal or only one
        coordinates = pca.fit_transform(rows)
    axes = pca.components_
    # scikit-learn's own choice of signs has changed between versions.
    signs = np.where(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1) < 0, -1, 1)[:, 0]
    missing = count - len(axes)
    fractions = np.nan_to_num(pca.explained_variance_ratio_, nan=0.0)
    return np.pad(coordinates * signs, ((0, 0), (0, missing))), np.pad(fractions, (0, missing))


def as_colors(rows) -> tuple[np.ndarray, np.ndarray]:
    """Maps rows [n, D] to RGB colors: their first three principal components.

    Returns:
      float32 [n, 3] in 0..1, scaled from the 1st to the 99th percentile of each component; and the fraction of the variance
      that each explains, [3].
    """
    components, fractions = principal_components(rows, 3)
    low, high = np.percentile(components, (1, 99), axis=0)
    return np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32), fractions
