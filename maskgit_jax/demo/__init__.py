"""The editor in the browser: a page that generates, edits and encodes images with trained runs."""
