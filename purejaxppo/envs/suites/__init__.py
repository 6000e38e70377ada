"""Adapters, one for each suite of environments, imported when one of its environments is made."""
