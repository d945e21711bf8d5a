"""The router's commands: route submissions, publish an operating model or a policy set, check a publication."""
