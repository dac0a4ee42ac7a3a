"""Images or features to numbers."""
