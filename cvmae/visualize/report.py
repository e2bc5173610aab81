"""Former name of the command `python -m cvmae.report`; it takes the same arguments."""

import runpy
import sys

if __name__ == "__main__":
    print("warning: python -m cvmae.visualize.report is now python -m cvmae.report", file=sys.stderr)
    # Run by name: the report is no dependency of this package, and nothing else may import it from here.
    runpy.run_module("cvmae.report", run_name="__main__", alter_sys=True)
