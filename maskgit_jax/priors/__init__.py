"""Models over tokens."""
