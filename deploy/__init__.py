"""How Piepowder is run: the local stack, containers and Kubernetes."""
