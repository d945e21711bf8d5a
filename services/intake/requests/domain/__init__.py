"""The rules of business requests, pure: what one may say, and what may become of it."""
