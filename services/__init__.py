"""The services. They never import each other: between them there are events, and REST where somebody waits."""
