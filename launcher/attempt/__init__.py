"""The workers of one attempt: started, watched, stopped."""
