"""Authentication and authorisation: API keys, access tokens, limits and the access log."""
