"""The smallest script: what a launcher costs by itself."""

print("hello")
