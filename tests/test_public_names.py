"""The names of `import cvmae`: old ones still work, with a warning that names the new one."""

import subprocess
import sys

import pytest

import cvmae
from cvmae.evaluation.feature_folder import FeatureFolder
from tests.commands import ROOT


@pytest.mark.parametrize("old, new", [("Trunk", "TransformerConfig"), ("SIZES", "VIT_SIZES")])
def test_old_names_warn(old, new):
    with pytest.warns(DeprecationWarning, match=f"^cvmae.{old} is now cvmae.{new}$") as caught:
        value = getattr(cvmae, old)
    assert value is getattr(cvmae, new) and caught[0].filename == __file__
    assert old not in dir(cvmae) and old not in cvmae.__all__


def test_the_reader_of_features_is_public():
    assert cvmae.FeatureFolder is FeatureFolder


def test_import_is_lazy():
    """Workers that decode import the package and need no jax."""
    code = "import sys, cvmae; dir(cvmae); sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
