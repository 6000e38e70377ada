"""Results of runs that are written: pictures and a page."""
