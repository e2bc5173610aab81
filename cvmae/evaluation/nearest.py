"""Nearest neighbors by cosine similarity, computed chunk by chunk on the accelerator.

Every product is a jitted float32 matmul in full precision; the last chunk is padded, so each size compiles once. A matmul may
round the same sum differently in different positions of the output, so copies of a row tie only if it does not.

Device memory in addition to the gallery (float32 [g, D]): `nearest` needs a few blocks [1024, 16384] of 64 MiB, for any number of
rows; `partner_ranks` and `similarity_rows` need rows of similarities with up to 2**24 values, 64 MiB per copy. For
200,000 x 200,000 rows of width 768 these are 0.6 GiB for the gallery and, compiled for CPU, 0.2 GiB for the rest.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

CHUNKS = (1024, 16384)  # rows of the queries and of the gallery that `nearest` compares at once
ROW_VALUES = 2**24  # similarities in memory at once if complete rows are needed


def unit_rows(features) -> np.ndarray:
    """Normalizes rows [n, D] to unit length, float32; a row of zeros stays zero.

    Raises:
      ValueError: the array does not have two axes, has no row, or a row is not finite.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"expected features [n, D] of at least one clip, not {features.shape}")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    finite = np.isfinite(norms)
    if not finite.all():
        raise ValueError(f"row {finite.argmin()} of the features is not finite, as are {(~finite).sum()} of {len(features)} rows")
    return features / np.maximum(norms, np.float32(1e-12))


def nearest(queries, gallery, k: int, exclude_self: bool = False, chunks: tuple[int, int] = CHUNKS):
    """Finds the `k` rows of the gallery most similar to each query, nearest first; ties go to the lower index.

    Args:
      queries: [q, D].
      gallery: [g, D].
      k: the number of neighbors, at most the size of the gallery.
      exclude_self: True if row i of `gallery` is query i, which is then not a neighbor of itself.
      chunks: the numbers of queries and of gallery rows to compare at once.

    Returns:
      index int32 [q, k], similarity float32 [q, k].

    Raises:
      ValueError: invalid features (see `unit_rows`), different widths, or a `k` larger than the gallery.
    """
    queries, gallery = _pair(queries, gallery)
    count = len(gallery)
    if exclude_self and len(queries) != count:
        raise ValueError(f"exclude_self needs the same rows twice, not {len(queries)} queries and a gallery of {count}")
    if not 1 <= k <= count - exclude_self:
        raise ValueError(f"k={k} neighbors of a gallery of {count - exclude_self}: ask for 1 to {count - exclude_self}")
    rows, columns = _even(len(queries), chunks[0]), _even(count, chunks[1])
    gallery = jnp.asarray(rearrange(_padded(gallery, columns), "(m c) d -> m c d", c=columns))
    results = []
    for start in range(0, len(queries), rows):
        own = np.arange(start, start + rows) if exclude_self else np.full(rows, -1)
        chunk = _padded(queries[start : start + rows], rows)
        results.append(jax.device_get(_nearest(chunk, own.astype(np.int32), gallery, count, k)))
    return tuple(np.concatenate(columns_of_chunks)[: len(queries)] for columns_of_chunks in zip(*results))


def partner_ranks(queries, gallery, partners=None, values: int = ROW_VALUES) -> np.ndarray:
    """Computes the rank of each query's partner among the rows of the gallery, int64 [q]; 1 is nearest.

    The rank is the number of rows at least as similar as the partner: ties count against it.

    Args:
      queries: [q, D].
      gallery: [g, D].
      partners: int [q], rows of the gallery; None takes row i for query i.
      values: the number of similarities in memory at once.
    """
    queries, gallery = _pair(queries, gallery)
    partners = np.arange(len(queries)) if partners is None else np.asarray(partners)
    if partners.shape != (len(queries),) or partners.min() < 0 or partners.max() >= len(gallery):
        raise ValueError(f"every one of {len(queries)} queries needs a partner in the gallery's rows, 0 to {len(gallery) - 1}")
    rows = _queries_per_chunk(queries, gallery, values)
    partners, gallery = _padded(partners.astype(np.int32), rows), jnp.asarray(gallery)
    ranks = []
    for start in range(0, len(queries), rows):
        chunk = _padded(queries[start : start + rows], rows)
        ranks.append(jax.device_get(_ranks(chunk, gallery, partners[start : start + rows])))
    return np.concatenate(ranks)[: len(queries)].astype(np.int64)


def similarity_rows(queries, gallery, values: int = ROW_VALUES):
    """Yields the similarity of each query to all rows of the gallery, float32 [g], in order.

    The device computes the next chunk while the caller works on the rows of the current one; two chunks are in host memory.
    """
    queries, gallery = _pair(queries, gallery)
    size = _queries_per_chunk(queries, gallery, values)
    gallery, ahead = jnp.asarray(gallery), None
    for start in range(0, len(queries), size):
        chunk = _similarity(_padded(queries[start : start + size], size), gallery)
        if ahead is not None:
            yield from np.asarray(ahead)
        ahead = chunk
    yield from np.asarray(ahead)[: len(queries) - start]


def _product(queries, gallery):
    """Computes similarities: [q, D], [g, D] -> [q, g]; -0 becomes 0, because a sort would order them."""
    similarity = jnp.einsum("qd,gd->qg", queries, gallery, precision=lax.Precision.HIGHEST)
    return jnp.where(similarity == 0, 0.0, similarity)


_similarity = jax.jit(_product)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(queries, own, gallery, count, k):
    """Computes the top k for queries [q, D] over gallery chunks [m, c, D], whose first `count` rows are not padding.

    Row `own[i]`, int32 [q], is excluded for query i.
    """
    rows, columns = len(queries), gallery.shape[1]

    def merge(best, chunk):
        """Merges the rows of a numbered gallery chunk [c, D] into the best so far, (index, similarity) [q, k] each."""
        number, block = chunk
        index = number * columns + jnp.arange(columns)
        out = (index >= count) | (index == own[:, None])
        similarity = jnp.where(out, -jnp.inf, _product(queries, block))
        # Earlier results come first: ties go to the earlier column, so to the lower index.
        values = jnp.concatenate([best[1], similarity], axis=1)
        index = jnp.concatenate([best[0], jnp.broadcast_to(index, (rows, columns))], axis=1)
        values, columns_of_top = lax.top_k(values, k)
        return (jnp.take_along_axis(index, columns_of_top, axis=1), values), None

    initial = jnp.full((rows, k), -1, jnp.int32), jnp.full((rows, k), -jnp.inf)
    return lax.scan(merge, initial, (jnp.arange(len(gallery)), gallery))[0]


@jax.jit
def _ranks(queries, gallery, partners):
    similarity = _product(queries, gallery)
    return (similarity >= jnp.take_along_axis(similarity, partners[:, None], axis=1)).sum(1)


def _pair(queries, gallery):
    queries, gallery = unit_rows(queries), unit_rows(gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries of width {queries.shape[1]} and a gallery of width {gallery.shape[1]} cannot be compared")
    return queries, gallery


def _queries_per_chunk(queries, gallery, values):
    """Returns the number of queries, at least one, that have at most `values` similarities to the gallery."""
    return _even(len(queries), max(values // len(gallery), 1))


def _even(count, most):
    """Returns the size of equal chunks of at most `most`, so that the last one has little padding."""
    return -(-count // -(-count // most))


def _padded(array, multiple):
    """Pads rows with zeros to a multiple of `multiple`."""
    return np.pad(array, [(0, -len(array) % multiple)] + [(0, 0)] * (array.ndim - 1))
