"""Checks a recorded history against the promises. It shares no code with the services, so it does not repeat their
errors."""
