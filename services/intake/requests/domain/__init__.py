"""The pure rules of business requests: content, state machine, queries."""
