"""All pictures of one encoder, as config.visualize asks for them: `task=visualize`."""

import dataclasses

import numpy as np

from cvmae.config import ConfigError
from cvmae.evaluation import nearest
from cvmae.evaluation.features import Features, make_encode
from cvmae.parallel import processes
from cvmae.visualize.canvas import Cell, Row, as_bytes, compose, fitted_size, resized
from cvmae.visualize.clip_analysis import ClipAnalysis, ClipAnalyzer
from cvmae.visualize.clips import Clips, features_of, open_split, read_clips, spread
from cvmae.visualize.embedding import draw_embedding, embed
from cvmae.visualize.figure import Semantic, color_maps, moving, still, strips
from cvmae.visualize.figure_folder import FigureFolder
from cvmae.visualize.pca import as_colors
from cvmae.visualize.retrieval_sheet import Retrieval, class_name, draw_sheet, middle_frames, share_right
from cvmae.visualize.weights import Branches

MOVING_SIDE = 224  # about the side of a panel that moves, pixels


def visualize(config, branches: Branches, folder) -> dict[str, float]:
    """Draws everything into `folder`/figures, see `figure_folder.FigureFolder`, from clips of config.data.test_split.

    Args:
      config: of the task.
      branches: what to draw from.
      folder: the workdir.

    Returns:
      How many `clips` were drawn and `files` written, and `neighbours_right`, the share of retrieved clips of the query's class,
      where labels say so.

    Raises:
      ConfigError: no clip can be read, or the encoder has not got what is asked for.
    """
    found = {}
    if processes.is_main_process():
        album = FigureFolder(folder, config.visualize.fps)
        found = _Pictures(config, branches, album).draw()
        album.close()
        found["files"] = len(album.entries)
    processes.barrier("pictures are drawn")
    return found


@dataclasses.dataclass(frozen=True)
class _Seen:
    """The clips that are drawn, what was made of each, its tokens' colors [T', h, w, 3] in 0..1, and how much these show, [3]."""

    clips: Clips
    looks: list[ClipAnalysis]
    colors: list[np.ndarray]
    shares: list[np.ndarray]


class _Pictures:
    def __init__(self, config, branches: Branches, album: FigureFolder):
        self.config, self.c, self.branches, self.album = config, config.visualize, branches, album
        self.source = open_split(config, "test_split")
        try:
            self.look = ClipAnalyzer(branches, config)
        except ValueError as error:
            raise ConfigError(f"config.visualize: {error}") from error
        self.encoder, self.encode = branches.video.encoder, make_encode(config)

    def draw(self) -> dict[str, float]:
        seen, found = None, {}
        if len(self.c.records) or self.c.clips:
            seen = self.see()
            found["clips"] = len(seen.clips)
            for number in range(len(seen.clips)):
                self.draw_clip(seen, number)
            self.draw_tokens(seen)
        if self.c.embedded:
            self.draw_embedding()
        if self.c.queries:
            found |= self.draw_retrieval()
        return found

    def see(self) -> _Seen:
        """Reads the clips and looks at each."""
        records = self.c.records if len(self.c.records) else spread(len(self.source), self.c.clips)
        clips = read_clips(self.config, self.source, records)
        looks = [self.look(clip) for clip in clips.pixels]
        colors, shares = zip(*(as_colors(look.tokens) for look in looks))
        return _Seen(clips, looks, [found.reshape(*self.encoder.grid.shape, 3) for found in colors], list(shares))

    def title(self, clips: Clips, number: int) -> str:
        return ", ".join(filter(None, (class_name(int(clips.labels[number]), self.source.class_names), clips.names[number])))

    def semantic(self, seen: _Seen, number: int) -> Semantic:
        """The image branch's attention, or the components of the video branch's tokens."""
        image = seen.looks[number].image
        if image is not None:
            return Semantic("image branch's attention", image)
        return Semantic("PCA of the video's tokens", seen.colors[number].repeat(self.encoder.grid.tubelet, axis=0))

    def draw_clip(self, seen: _Seen, number: int) -> None:
        """The six rows of one clip, for every ratio."""
        grid, look, title = self.encoder.grid, seen.looks[number], self.title(seen.clips, number)
        mark = self.look.spec.place(grid) if self.c.query == "patch" else None
        for ratio in self.c.ratios:
            found = self.look.rebuild(seen.clips.pixels[number], number, ratio)
            decoded = self.branches.video.decoder is not None
            semantic = self.semantic(seen, number)
            what = {"ratio": ratio, "decoded": decoded, "mark": mark}
            note = self.note(ratio, semantic)
            caption = f"{title}: {note}"
            stem = f"clip{number:02d}_masked{100 * ratio:g}".replace(".", "_")
            if "png" in self.c.formats:
                rows = strips(found, self.look.frames, look.attention, semantic, grid, **what)
                self.album.still(f"{stem}.png", "clip", caption, still(rows, self.look.frames, self.c.columns, title, note))
            if set(self.c.formats) - {"png"}:
                rows = strips(found, self.look.frames, look.attention, semantic, grid, **what, side=MOVING_SIDE)
                self.album.moving(stem, "clip", caption, moving(rows, title), self.c.formats)

    def note(self, ratio: float, semantic: Semantic) -> str:
        """What the six rows are."""
        image = ""
        if semantic.values.ndim == 3:
            image = f" ({self.look.image_spec.describe(self.branches.image.encoder)}; each frame by itself)"
        decoder = "visible patches pasted, the true mean and deviation of each hidden patch given back"
        decoder = (
            f"Reconstruction: {decoder}." if self.branches.video.decoder else f"No reconstruction: {self.branches.video.missing}."
        )
        return (
            f"{100 * ratio:g} % of patches hidden ({self.c.mask}). {decoder} Attention: "
            f"{self.look.spec.describe(self.encoder)}; of the whole clip, nothing hidden. Semantic map: {semantic.name}{image}."
        )

    def draw_tokens(self, seen: _Seen) -> None:
        """The tokens of every clip over time, as colors."""
        grid = self.encoder.grid
        size = fitted_size(grid.height, grid.width)
        slots = spread(grid.time_patches, self.c.columns or grid.time_patches)
        rows = []
        for number, clip in enumerate(seen.clips.pixels):
            frames = resized(as_bytes(clip[slots * grid.tubelet]), size)
            colors = color_maps(seen.colors[number], size)[slots]
            rows += [Row([Cell(a) for a in frames], self.title(seen.clips, number)), Row([Cell(a) for a in colors], "tokens")]
        layer = "the encoder's output" if self.c.layer == -1 else f"block {self.c.layer + 1}'s output"
        shares = ", ".join(f"{share:.0%}" for share in np.mean(seen.shares, axis=0))
        caption = (
            f"Tokens over time: the first three principal components of {layer} as red, green and blue, fitted to all tokens of one "
            f"clip, nothing hidden ({shares} of a clip's variance on average)."
        )
        picture = compose(rows, "PCA of tokens over time", tuple(f"slot {slot + 1}" for slot in slots), caption)
        self.album.still("tokens.png", "tokens", caption, picture)

    def draw_embedding(self) -> None:
        """Pooled features of clips spread over the split, on a plane."""
        features = self.features(self.source, self.c.embedded)
        if len(features.labels) < 2:
            processes.log_once("no embedding is drawn: it needs 2 clips or more")
            return
        places, how = embed(features.values, self.c.embedding, perplexity=self.c.perplexity, seed=self.config.seed)
        title = f"{len(places)} clips, {how}"
        colors = "colored by label" if (features.labels >= 0).any() else "none of them labeled"
        path = self.album.place("embedding.png", "embedding", f"Pooled features of {title}; {colors}.")
        draw_embedding(path, places, features.labels, self.source.class_names, title)

    def features(self, source, count: int) -> Features:
        """Pooled features of `count` clips spread over a source."""
        params = self.branches.video.params["encoder"]
        return features_of(self.config, params, source, spread(len(source), count), self.encode)

    def draw_retrieval(self) -> dict[str, float]:
        """The clips of config.data.split nearest to some of the test split, among those that config.visualize.gallery spreads over it."""
        source = open_split(self.config, "split")
        queries = self.features(self.source, self.c.queries)
        gallery = self.features(source, self.c.gallery)
        same = source.identity == self.source.identity
        k = min(self.c.neighbours, len(gallery.index) - same)
        if k < 1:
            processes.log_once("no neighbors are drawn: config.data.split has no other clip")
            return {}
        index, alike = nearest_others(queries, gallery, k, same)
        needed = np.unique(gallery.index[index])
        pictures = read_clips(self.config, source, needed)
        frames = dict(zip(pictures.records.tolist(), middle_frames(pictures.pixels)))
        asked = middle_frames(read_clips(self.config, self.source, queries.index).pixels)
        found = []
        for picture, label, row, values in zip(asked, queries.labels, index, alike, strict=True):
            neighbors = np.stack([frames[record] for record in gallery.index[row].tolist()])
            found.append(Retrieval(picture, neighbors, values, int(label), gallery.labels[row]))
        right = share_right(found)
        marks = "no label to compare" if right is None else f"{right:.0%} are of the query's class"
        caption = (
            f"Test clips and the {k} nearest of {len(gallery.index)} clips of {self.config.data.split!r} by the cosine similarity of their "
            f"pooled features, middle frames shown; {marks}."
        )
        self.album.still(
            "retrieval.png", "retrieval", caption, draw_sheet(found, self.source.class_names, "Nearest clips", caption)
        )
        return {} if right is None else {"neighbours_right": right}


def nearest_others(queries: Features, gallery: Features, k: int, same: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the gallery nearest to each query, int [q, k], and their similarity; `same`: records are of one source, none finds itself."""
    if not same:
        return nearest.nearest(queries.values, gallery.values, k)
    more = min(k + 1, len(gallery.index))
    index, alike = nearest.nearest(queries.values, gallery.values, more)
    other = gallery.index[index] != queries.index[:, None]
    order = np.argsort(~other, axis=1, kind="stable")[:, :k]  # the query itself goes last
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(alike, order, axis=1)
