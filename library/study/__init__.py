"""Choosing among files: grids of pictures, studies of many runs, what a file suffers from."""
