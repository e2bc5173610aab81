"""Files in buckets, `gs://`, `s3://` and `hf://`, beside local ones: the one room that talks to object stores.

`path` joins paths and reads and writes whole objects, `client` holds the connections, their errors and what is tried again,
`blocks` reads parts of large objects, `cache` keeps local copies, `counters` counts what reading costs.
"""
