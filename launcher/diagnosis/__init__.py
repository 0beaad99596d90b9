"""What happened, why, and how a person is told."""
