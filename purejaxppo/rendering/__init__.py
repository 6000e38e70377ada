"""Films of trained policies."""
