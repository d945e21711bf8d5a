"""Development tools: generators and checks of the committed contracts and pages."""
