"""All figures of one encoder that config.visualize asks for: `task=visualize`."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from cvmae.config import ConfigError
from cvmae.data.labels import label_sets_of
from cvmae.data.sources import Source, open_split
from cvmae.evaluation import nearest
from cvmae.evaluation.features import Features, make_encode
from cvmae.parallel import processes
from cvmae.visualize.canvas import Cell, Row, as_bytes, compose, fitted_size, resized
from cvmae.visualize.clip_analysis import ClipAnalysis, ClipAnalyzer
from cvmae.visualize.clips import Clips, clip_features, read_clips, spread
from cvmae.visualize.embedding import draw_embedding, embed
from cvmae.visualize.figure import Semantic, color_maps, moving, still, strips
from cvmae.visualize.figure_folder import FigureFolder
from cvmae.visualize.pca import as_colors
from cvmae.visualize.retrieval_sheet import Retrieval, class_name, draw_sheet, fraction_right, label_names, middle_frames
from cvmae.visualize.weights import Branches

MOVING_SIDE = 224  # approximate side of a panel of an animation, pixels


def visualize(config, branches: Branches, folder, sources: Mapping[str, Source] | None = None) -> dict[str, float]:
    """Draws all figures of clips of config.data.test_split into `folder`/figures; see `figure_folder.FigureFolder`.

    Args:
      config: config of the task.
      branches: the weights to draw from.
      folder: the workdir.
      sources: the opened splits by their field of config.data; None opens them.

    Returns:
      The number of `clips` drawn and `files` written, and, if there are labels, `neighbours_right`, the fraction of retrieved
      clips that are of the query's class, or that share a label with it where clips have several.

    Raises:
      ConfigError: no clip can be read, or an encoder lacks the layer, head or query.
    """
    numbers: dict[str, float] = {}
    if processes.is_main_process():
        figures = FigureFolder(folder, config.visualize.fps)
        numbers = _Gallery(config, branches, figures, sources or {}).draw()
        figures.close()
        numbers["files"] = len(figures.entries)
    processes.barrier("figures are drawn")
    return numbers


@dataclasses.dataclass(frozen=True)
class _AnalyzedClips:
    """The clips to draw and their analyses.

    Attributes:
      clips: n clips.
      analyses: n analyses.
      colors: n arrays [T', h, w, 3] in 0..1, the colors of the tokens.
      variance: n arrays [3], the fractions of the variance that these colors explain.
    """

    clips: Clips
    analyses: list[ClipAnalysis]
    colors: list[np.ndarray]
    variance: list[np.ndarray]


class _Gallery:
    def __init__(self, config, branches: Branches, figures: FigureFolder, sources: Mapping[str, Source]):
        self.config, self.c, self.branches, self.figures = config, config.visualize, branches, figures
        self.sources = sources
        self.source = self._open("test_split")
        self.label_sets = label_sets_of(self.source)
        self.names = label_names(self.source.class_names, self.label_sets)
        try:
            self.analyze = ClipAnalyzer(branches, config)
        except ValueError as error:
            raise ConfigError(f"config.visualize: {error}") from error
        self.encoder, self.encode = branches.video.encoder, make_encode(config)

    def draw(self) -> dict[str, float]:
        """Draws everything and returns the numbers of `visualize`, except `files`."""
        numbers: dict[str, float] = {}
        if len(self.c.records) or self.c.clips:
            analyzed = self.analyze_clips()
            numbers["clips"] = len(analyzed.clips)
            for number in range(len(analyzed.clips)):
                self.draw_clip(analyzed, number)
            self.draw_tokens(analyzed)
        if self.c.embedded:
            self.draw_embedding()
        if self.c.queries:
            numbers |= self.draw_retrieval()
        return numbers

    def analyze_clips(self) -> _AnalyzedClips:
        """Reads and analyzes the clips of config.visualize."""
        records = self.c.records if len(self.c.records) else spread(len(self.source), self.c.clips)
        clips = read_clips(self.config, self.source, records)
        analyses = [self.analyze(clip) for clip in clips.pixels]
        colors, variance = zip(*(as_colors(analysis.tokens) for analysis in analyses))
        return _AnalyzedClips(clips, analyses, [rgb.reshape(*self.encoder.grid.shape, 3) for rgb in colors], list(variance))

    def title(self, clips: Clips, number: int) -> str:
        """Returns the class and the name of a clip."""
        return ", ".join(filter(None, (class_name(int(clips.labels[number]), self.names), clips.names[number])))

    def semantic(self, analyzed: _AnalyzedClips, number: int) -> Semantic:
        """Returns the image branch's attention, or without an image branch the PCA colors of the video branch's tokens."""
        image = analyzed.analyses[number].image
        if image is not None:
            return Semantic("image branch's attention", image)
        return Semantic("PCA of the video's tokens", analyzed.colors[number].repeat(self.encoder.grid.tubelet, axis=0))

    def draw_clip(self, analyzed: _AnalyzedClips, number: int) -> None:
        """Draws the six rows of one clip, for every mask ratio."""
        attention, title = analyzed.analyses[number].attention, self.title(analyzed.clips, number)
        grid, frames = self.encoder.grid, self.analyze.frames
        mark = self.analyze.spec.patch_index(grid) if self.c.query == "patch" else None
        decoded = self.branches.video.decoder is not None
        semantic = self.semantic(analyzed, number)
        for ratio in self.c.ratios:
            reconstruction = self.analyze.rebuild(analyzed.clips.pixels[number], number, ratio)

            def rows(side: int, reconstruction=reconstruction, ratio=ratio):
                return strips(
                    reconstruction, frames, attention, semantic, grid, ratio=ratio, decoded=decoded, mark=mark, side=side
                )

            note = self.note(ratio, semantic)
            caption = f"{title}: {note}"
            stem = f"clip{number:02d}_masked{100 * ratio:g}".replace(".", "_")
            if "png" in self.c.formats:
                self.figures.still(f"{stem}.png", "clip", caption, still(rows(0), frames, self.c.columns, title, note))
            if set(self.c.formats) - {"png"}:
                self.figures.moving(stem, "clip", caption, moving(rows(MOVING_SIDE), title), self.c.formats)

    def note(self, ratio: float, semantic: Semantic) -> str:
        """Describes the six rows."""
        image = ""
        if semantic.values.ndim == 3 and self.analyze.image_spec is not None and self.branches.image is not None:
            image = f" ({self.analyze.image_spec.describe(self.branches.image.encoder)}; each frame separately)"
        if self.branches.video.decoder is None:
            decoder = f"No reconstruction: {self.branches.video.missing}."
        else:
            given = self.branches.video.predicted.given
            decoder = f"Reconstruction: visible patches are copied; masked patches are predicted, {given}."
        return (
            f"{100 * ratio:g} % of patches masked ({self.c.mask}). {decoder} Attention: "
            f"{self.analyze.spec.describe(self.encoder)}; of the unmasked clip. Semantic map: {semantic.name}{image}."
        )

    def draw_tokens(self, analyzed: _AnalyzedClips) -> None:
        """Draws the tokens of every clip over time, as colors."""
        grid = self.encoder.grid
        size = fitted_size(grid.height, grid.width)
        times = spread(grid.time_patches, self.c.columns or grid.time_patches)
        rows = []
        for number, clip in enumerate(analyzed.clips.pixels):
            frames = resized(as_bytes(clip[times * grid.tubelet]), size)
            colors = color_maps(analyzed.colors[number], size)[times]
            title = self.title(analyzed.clips, number)
            rows += [Row([Cell(a) for a in frames], title), Row([Cell(a) for a in colors], "tokens")]
        layer = "the encoder's output" if self.c.layer == -1 else f"block {self.c.layer + 1}'s output"
        percent = ", ".join(f"{fraction:.0%}" for fraction in np.mean(analyzed.variance, axis=0))
        caption = (
            f"Tokens over time: the first three principal components of {layer} as red, green and blue, fitted to all tokens of one "
            f"unmasked clip ({percent} of a clip's variance on average)."
        )
        picture = compose(rows, "PCA of tokens over time", tuple(f"time {time + 1}" for time in times), caption)
        self.figures.still("tokens.png", "tokens", caption, picture)

    def draw_embedding(self) -> None:
        """Draws pooled features of clips, evenly spread over the split, in two dimensions."""
        features = self.features(self.source, self.c.embedded)
        if len(features.labels) < 2:
            processes.log_once("no embedding is drawn: it needs 2 clips or more")
            return
        coordinates, method = embed(features.values, self.c.embedding, perplexity=self.c.perplexity, seed=self.config.seed)
        title = f"{len(coordinates)} clips, {method}"
        colors = "colored by label" if (features.labels >= 0).any() else "none of them labeled"
        path = self.figures.add("embedding.png", "embedding", f"Pooled features of {title}; {colors}.")
        draw_embedding(path, coordinates, features.labels, self.names, title)

    def features(self, source: Source, count: int) -> Features:
        """Extracts pooled features of `count` clips, evenly spread over a source."""
        params = self.branches.video.params["encoder"]
        return clip_features(self.config, params, source, spread(len(source), count), self.encode)

    def _open(self, field: str) -> Source:
        return self.sources[field] if field in self.sources else open_split(self.config.data, field)

    def draw_retrieval(self) -> dict[str, float]:
        """Draws the nearest clips of a few test clips, among config.visualize.gallery clips spread over config.data.split."""
        source = self._open("split")
        queries = self.features(self.source, self.c.queries)
        gallery = self.features(source, self.c.gallery)
        same = source.identity == self.source.identity
        k = min(self.c.neighbours, len(gallery.index) - same)
        if k < 1:
            processes.log_once("no neighbors are drawn: config.data.split has no other clip")
            return {}
        index, similarity = nearest_others(queries, gallery, k, same)
        pictures = read_clips(self.config, source, np.unique(gallery.index[index]))
        frames = dict(zip(pictures.records.tolist(), middle_frames(pictures.pixels)))
        query_frames = middle_frames(read_clips(self.config, self.source, queries.index).pixels)
        retrievals = []
        for picture, label, row, values in zip(query_frames, queries.labels, index, similarity, strict=True):
            neighbors = np.stack([frames[record] for record in gallery.index[row].tolist()])
            retrievals.append(Retrieval(picture, neighbors, values, int(label), gallery.labels[row], self.label_sets))
        right = fraction_right(retrievals)
        relevant = "are of the query's class" if self.label_sets is None else "share at least one label with the query"
        marks = "no labels to compare" if right is None else f"{right:.0%} {relevant}"
        caption = (
            f"Test clips and the {k} nearest of {len(gallery.index)} clips of {self.config.data.split!r} by the cosine similarity of "
            f"their pooled features; middle frames; {marks}."
        )
        sheet = draw_sheet(retrievals, self.names, "Nearest clips", caption)
        self.figures.still("retrieval.png", "retrieval", caption, sheet)
        return {} if right is None else {"neighbours_right": right}


def nearest_others(queries: Features, gallery: Features, k: int, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Finds the `k` rows of the gallery nearest to each query, other than the query itself.

    Args:
      queries: features of the queries.
      gallery: features of the gallery.
      k: the number of neighbors.
      same: True if both are of one source, so that equal indices are the same record.

    Returns:
      Rows of the gallery, int [q, k], and their similarities, float [q, k].
    """
    if not same:
        return nearest.nearest(queries.values, gallery.values, k)
    more = min(k + 1, len(gallery.index))
    index, similarity = nearest.nearest(queries.values, gallery.values, more)
    other = gallery.index[index] != queries.index[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]  # the query itself goes last
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(similarity, order, axis=1)
