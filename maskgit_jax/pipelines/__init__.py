"""What a program calls on a loaded run: generate, encode and decode, edit."""
