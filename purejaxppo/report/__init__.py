"""What is made of runs that are written: results, pictures, a page."""
