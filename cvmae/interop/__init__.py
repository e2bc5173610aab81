"""Other people's weights: key maps as tables and the one loader that reads them."""

from cvmae.interop.weights import KINDS, WeightsError, load_autoencoder

__all__ = ["KINDS", "WeightsError", "load_autoencoder"]
