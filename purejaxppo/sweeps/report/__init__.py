"""What is made of a study: a list, pictures, a page, and the importance of what was varied."""
