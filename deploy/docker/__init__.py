"""The image, and the programs that containers run besides the services."""
