"""Types of arrays in annotations."""

import numpy as np
from jax import Array

AnyArray = Array | np.ndarray  # functions and modules of pixels take arrays of the host, too
