"""Pictures of an encoder: attention, reconstructions, tokens over time, embedding, retrieval."""

from cvmae.tasks.frozen import FrozenTask, video_encoder
from cvmae.visualize.gallery import visualize
from cvmae.visualize.weights import Branches, load_branches


class Visualize(FrozenTask):
    """All pictures that config.visualize asks for, in the folder `figures` of the workdir."""

    def load(self) -> Branches:
        """Returns both branches, as far as config.init_from and config.visualize.image_from have them. Raises: ConfigError."""
        encoder, _, untrained = video_encoder(self.config)
        return load_branches(self.config, encoder, untrained)

    def compute(self, weights: Branches, workdir) -> dict[str, float]:
        """Returns the numbers of clips and files drawn; see `visualize.gallery.visualize`."""
        return visualize(self.config, weights, workdir, self.sources)
