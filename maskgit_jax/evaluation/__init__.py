"""Images to evaluations: networks, references, samples and figures brought together."""
