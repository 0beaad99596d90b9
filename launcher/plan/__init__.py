"""What will be done: values that can be printed, before anything starts."""
