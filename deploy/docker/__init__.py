"""The image and what containers run besides the services."""
