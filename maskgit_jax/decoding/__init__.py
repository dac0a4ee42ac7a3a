"""From logits to tokens; knows no network."""
