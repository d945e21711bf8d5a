"""The services. They never import each other; they communicate by events, and by REST where a caller waits."""
