"""From video files to batches of clips: manifests and other sources, exact decoding, clips, and the loader.

Knows numpy, Grain, the decoder and OpenCV; never JAX, nor anything else of this package.
"""
