"""What happens in a run, for programs: events, the files of its plan and of its end."""
