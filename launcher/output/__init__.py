"""From the workers' pipes to log files and the screen."""
