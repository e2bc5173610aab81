"""`python -m cvmae`: the main command, see `cvmae.main`."""

import runpy

runpy.run_module("cvmae.main", run_name="__main__")
