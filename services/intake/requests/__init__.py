"""Business requests: what the business wants changed, checked at once, decided by two people, each step an event."""
