"""What the supervisor and its workers agree on: variables, messages, file names."""
