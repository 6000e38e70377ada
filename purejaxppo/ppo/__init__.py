"""The algorithm: pure functions over the records of `records.py`."""
