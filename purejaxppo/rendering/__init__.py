"""Films of trained policies: one episode as a GIF, or as a page with a viewer."""
