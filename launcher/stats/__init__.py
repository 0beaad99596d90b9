"""What ranks and nodes use: figures, how they are kept, and how they are shown."""
