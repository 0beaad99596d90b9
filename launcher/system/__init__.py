"""The operating system: processes, signals, descriptors, the machine; it knows no rank."""
