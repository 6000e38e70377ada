"""The host side: files, terminals and clocks."""
