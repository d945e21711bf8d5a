"""Business requests: proposals of the business, checked by the router, decided by two people; each step is an event."""
