"""Sweeps: many settings as few programs, in studies that go on."""
