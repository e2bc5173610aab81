"""Readers of the label files of each data set, as published: where they lie -> a Listing."""
