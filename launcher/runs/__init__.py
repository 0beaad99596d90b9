"""What a run leaves behind on disk."""
