"""What was asked: the options of a launch, declared once."""
