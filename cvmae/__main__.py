"""`python -m cvmae`: the main command, see `cvmae.main`."""

from cvmae.main import cli

cli()
