"""What a run leaves behind: weights, their names and metadata, uploads."""
