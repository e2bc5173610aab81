"""Input pipeline, from video files to batches of clips: manifests and other sources, exact decoding, sampling, the loader.

Depends on NumPy, Grain, PyAV and OpenCV, not on JAX, so that worker processes start fast. (Grain itself imports JAX if it is
installed: `pipeline`, `clip_views`, `proportions` and `windows` are the modules that need Grain.)
"""
