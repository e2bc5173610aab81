"""Readers of the published label files of each data set; each turns a folder or file into a Listing."""
