"""Exports trained policies to files that run without purejaxppo."""
