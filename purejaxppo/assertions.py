"""chex, for assertions about shapes while a program is traced; imported on a full disk too."""

from __future__ import annotations

import os
import tempfile

try:
    import chex
except FileNotFoundError:
    # chex imports absl's test framework, which looks for a temporary folder that can be written: a
    # run whose disk is full must start all the same
    before, tempfile.tempdir = tempfile.tempdir, os.curdir
    try:
        import chex
    finally:
        tempfile.tempdir = before

__all__ = ["chex"]
