"""Holds a history against the promises. It shares no code with the services: what they misread, it does not."""
