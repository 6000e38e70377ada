"""Environments: one adapter file per suite."""
