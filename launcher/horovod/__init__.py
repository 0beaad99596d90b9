"""What Horovod asks and says; a launch without it never opens this room."""
