"""Trained policies as files that run without purejaxppo."""
